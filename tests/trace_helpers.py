"""Matrices in place of a flow's Jacobian, and a network whose Jacobian is full."""

from __future__ import annotations

import math

import torch
from solver_examples import normal, steps_of
from torch import nn

from scoresde import AdamsPC, Field
from scoresde.likelihood.jacobian import FlowJacobian, Route


class Known:
    """A Jacobian that is a given matrix (B, D, D)."""

    def __init__(self, matrix):
        self.matrix, self.like = matrix, matrix.new_zeros(matrix.shape[:2])

    def quadratic(self, probes):
        return torch.einsum("bki,bij,bkj->bk", probes, self.matrix, probes)

    def product(self, probes):
        return torch.einsum("bij,bkj->bki", self.matrix, probes)


class Mixing(nn.Module):
    """A network whose Jacobian is full and not symmetric."""

    def __init__(self, d):
        super().__init__()
        self.matrix = nn.Parameter(normal(d, d, seed=3, dtype=torch.float64))

    def forward(self, x, t):
        return (x @ self.matrix).tanh() + t[:, None] * x.sin()


def jacobian_of(model, x, steps=12, solver=None, mode=None):
    """Return the Jacobian of a model's flow from x (B, *)."""
    by = solver or AdamsPC()
    return FlowJacobian(Field(model), x, Route(by, **steps_of(by, steps)), mode)


def matrix_of(jacobian):
    """Return the matrix (B, D, D) of a Jacobian, by its products with the unit vectors."""
    x = jacobian.like
    d = math.prod(x.shape[1:])
    basis = torch.eye(d, dtype=x.dtype).reshape(1, d, *x.shape[1:])
    return jacobian.product(basis.expand(len(x), *basis.shape[1:])).flatten(2).mT


def off_diagonal(matrix):
    """Return the variance (B,) of a sign probe's quadratic form."""
    symmetric = 0.5 * (matrix + matrix.mT)
    diagonal = symmetric.diagonal(dim1=1, dim2=2)
    return 2.0 * (symmetric.square().sum((1, 2)) - diagonal.square().sum(1))


def trace_of(matrix):
    return matrix.diagonal(dim1=1, dim2=2).sum(1)
