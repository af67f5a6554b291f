"""Score-based generative modelling with stochastic differential equations.

Any network, any Gaussian diffusion, any solver, and a proof that the numbers are right:

    model = scoresde.Denoiser(net, scoresde.VPSDE(), predicts="eps")
    x = scoresde.sample(model, (64, 3, 32, 32), steps=20, seed=0)
    logp = scoresde.log_likelihood(model, x)
"""
