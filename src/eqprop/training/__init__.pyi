from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import CheckpointError as CheckpointError
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .evaluation import predict as predict
from .loop import Metrics as Metrics
from .loop import Running as Running
from .loop import train as train
