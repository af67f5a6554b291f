"""Score-based generative modelling with stochastic differential equations."""
