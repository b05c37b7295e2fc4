"""Methods: what an unlearner or an attack is written with."""

from vestige.methods.contract import Attack, Budget, Candidate, Paper, Unlearner
from vestige.methods.training import Training, fit
from vestige.methods.training_data import Data

__all__ = ["Attack", "Budget", "Candidate", "Data", "Paper", "Training", "Unlearner", "fit"]
