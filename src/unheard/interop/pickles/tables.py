"""Every class, function and type of numbers that a checkpoint may name, as literal tables."""

KIND_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "C128": 16, "C64": 8, "C32": 4,
    "QI8": 1, "QU8": 1, "QI32": 4, "Q4": 1, "Q2": 1,
}  # fmt: skip
"""Bytes of one number of each type; the last two lines are of tensors that are refused."""

STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.ComplexDoubleStorage": "C128",
    "torch.ComplexFloatStorage": "C64",
    "torch.QInt8Storage": "QI8",
    "torch.QUInt8Storage": "QU8",
    "torch.QInt32Storage": "QI32",
    "torch.QUInt4x2Storage": "Q4",
    "torch.QUInt2x4Storage": "Q2",
    "torch.UntypedStorage": None,
    "torch.storage.UntypedStorage": None,
}
"""Class of a storage -> type of its numbers as safetensors spells it; None for plain bytes."""

DTYPES = {
    "torch.float64": "F64",
    "torch.double": "F64",
    "torch.float32": "F32",
    "torch.float": "F32",
    "torch.float16": "F16",
    "torch.half": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.long": "I64",
    "torch.int32": "I32",
    "torch.int": "I32",
    "torch.int16": "I16",
    "torch.short": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
    "torch.complex128": "C128",
    "torch.complex64": "C64",
    "torch.complex32": "C32",
    "torch.qint8": "QI8",
    "torch.quint8": "QU8",
    "torch.qint32": "QI32",
}
"""torch's name of a type of numbers -> safetensors' name."""

DICTS = frozenset(
    {
        "__builtin__.dict",
        "builtins.dict",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    }
)
"""Classes whose objects become plain dicts."""

SETS = frozenset({"__builtin__.set", "builtins.set", "__builtin__.frozenset", "builtins.frozenset"})
"""Classes whose objects become plain sets."""

TENSOR_CLASSES = frozenset(
    {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}
)
"""Classes of tensors that hold numbers and nothing else."""

TYPES = frozenset(
    {
        # Types of the values of a configuration.
        *(
            f"{module}.{name}"
            for module in ("__builtin__", "builtins")
            for name in (
                "bool", "bytes", "float", "int", "list", "long", "object", "str", "tuple",
                "unicode",
            )
        ),
        *(f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
        # How a quantised tensor was quantised; the tensor is refused with its name.
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
        "torch.per_channel_affine_float_qparams",
        "torch.strided",
        "torch.sparse_coo",
        # The dataclasses that fairseq's configurations are checked against.
        *(
            f"fairseq.dataclass.configs.{name}"
            for name in (
                "CheckpointConfig", "CommonConfig", "CommonEvalConfig", "DatasetConfig",
                "DistributedTrainingConfig", "EMAConfig", "EvalLMConfig", "FairseqBMUFConfig",
                "FairseqConfig", "FairseqDataclass", "GenerationConfig", "InteractiveConfig",
                "OptimizationConfig",
            )
        ),
        "fairseq.criterions.ctc.CtcCriterionConfig",
        "fairseq.criterions.wav2vec_criterion.Wav2VecCriterionConfig",
        "fairseq.models.wav2vec.wav2vec2.Wav2Vec2Config",
        "fairseq.models.wav2vec.wav2vec2_asr.Wav2Vec2AsrConfig",
        "fairseq.models.wav2vec.wav2vec2_asr.Wav2Vec2CtcConfig",
        "fairseq.optim.adam.FairseqAdamConfig",
        "fairseq.optim.composite.CompositeOptimizerConfig",
        "fairseq.optim.composite.OptimizerAndSchedulerConfig",
        "fairseq.optim.lr_scheduler.fixed_schedule.FixedLRScheduleConfig",
        "fairseq.optim.lr_scheduler.polynomial_decay_schedule.PolynomialDecayLRScheduleConfig",
        "fairseq.optim.lr_scheduler.tri_stage_lr_scheduler.TriStageLRScheduleConfig",
        "fairseq.tasks.audio_finetuning.AudioFinetuningConfig",
        "fairseq.tasks.audio_pretraining.AudioPretrainingConfig",
        "numpy.ndarray",
    }
)  # fmt: skip
"""What a checkpoint may name and not call; a value of this kind becomes the name, a text."""

CONFIG_DICTS = frozenset({"omegaconf.dictconfig.DictConfig"})
CONFIG_LISTS = frozenset({"omegaconf.listconfig.ListConfig"})
CONFIG_NODES = frozenset(
    {
        "omegaconf.base.UnionNode",
        *(
            f"omegaconf.nodes.{name}Node"
            for name in (
                "Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "InterpolationResult",
                "Path", "String",
            )
        ),
    }
)  # fmt: skip
RECORDS = frozenset(
    {
        "argparse.Namespace",
        "fairseq.data.dictionary.Dictionary",
        "fairseq.logging.meters.AverageMeter",
        "fairseq.logging.meters.StopwatchMeter",
        "fairseq.logging.meters.TimeMeter",
        "fairseq.meters.AverageMeter",
        "fairseq.meters.StopwatchMeter",
        "fairseq.meters.TimeMeter",
    }
)
"""Classes whose objects become records: name and attributes."""

NUMPY_DTYPES = frozenset({"numpy.dtype"})
NUMPY_SCALARS = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
NUMPY_ARRAYS = frozenset(
    {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
)
NUMPY_BUFFERS = frozenset({"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"})

INERT = (
    CONFIG_DICTS
    | CONFIG_LISTS
    | CONFIG_NODES
    | RECORDS
    | NUMPY_DTYPES
    | NUMPY_SCALARS
    | NUMPY_ARRAYS
    | NUMPY_BUFFERS
    | {"omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"}
)
"""Classes and functions whose "call" keeps the arguments; `plain` makes data of them later."""

REFUSED_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": ("a sparse tensor", "Save its to_dense()."),
    "torch._utils._rebuild_sparse_csr_tensor": ("a sparse tensor", "Save its to_dense()."),
    "torch._utils._rebuild_nested_tensor": ("a nested tensor", "Save its parts."),
    "torch._utils._rebuild_qtensor": ("a quantized tensor", "Save its dequantize()."),
    "torch._utils._rebuild_meta_tensor_no_storage": (
        "a meta tensor, which has a shape and no numbers",
        "Save the model from a device where its weights are.",
    ),
    "torch._utils._rebuild_wrapper_subclass": (
        "a tensor of a class of its own",
        "Save plain tensors.",
    ),
    "torch._utils._rebuild_device_tensor_from_numpy": (
        "a tensor of a device that torch's core does not know",
        "Save its cpu().",
    ),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": (
        "a tensor of a device that torch's core does not know",
        "Save its cpu().",
    ),
    "torch._utils._rebuild_xla_tensor": (
        "a tensor of a device that torch's core does not know",
        "Save its cpu().",
    ),
}
"""Functions that make tensors which are refused -> what they make, and what to do."""
