# What `import smpr` offers, and where each name is at home: lazy_loader reads this file, and type checkers do.
from .config import SmprError as SmprError
from .data import PoseSet as PoseSet
from .data import load_set as load_set
from .deploy.export import export_network as export_network
from .deploy.export import load_exported as load_exported
from .evaluation import detect_set as detect_set
from .evaluation import evaluate as evaluate
from .inference import DecodeConfig as DecodeConfig
from .inference import TestConfig as TestConfig
from .inference import load as load
from .inference import predict as predict
from .model import SMPR as SMPR
from .model import ModelConfig as ModelConfig
from .skeleton import COCO17 as COCO17
from .skeleton import Skeleton as Skeleton
from .structures import Result as Result
from .training import RunConfig as RunConfig
from .run_folder import load_run as load_run
from .training import train as train
from .update import Config as Config
from .update import small_config as small_config

__version__: str
