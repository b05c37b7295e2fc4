"""Methods: what an unlearner or an attack is written with."""

from vestige.methods.training import Training, fit
from vestige.methods.training_data import Data

__all__ = ["Data", "Training", "fit"]
