"""The founding systems on Fashion-MNIST, of one network and budget: trained, sampled, measured."""
