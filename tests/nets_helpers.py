"""What the tests of networks share."""


def rouse(layer):
    """Give every parameter a value of its own, in float64."""
    for parameter in layer.parameters():
        parameter.data.normal_(std=0.3)
    return layer.double()
