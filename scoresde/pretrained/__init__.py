"""Trained models as files: those that come with the package, and what a run can be saved as."""

from scoresde.pretrained.files import load, locate, names, save
from scoresde.pretrained.trained import Trained, draw

__all__ = ["Trained", "draw", "load", "locate", "names", "save"]
