"""The layers that the benchmark measures, in named suites, and how much work each of them is.

What a layer is (window, data, name) and what it counts as (operations, bytes, bound) stands here
and nowhere else.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

from .. import geometry

Ints = Tuple[int, ...]
PASSES = ('forward', 'forward+backward')
BYTES = {'float32': 4, 'float64': 8}


class Layer(NamedTuple):
    """One layer on data of one shape.

    Attributes
    ----------
    name : str
        What it is, for people; the batch is not in it.
    data : tuple of int
        In the order of the layout, such as (batch, channels, height, width).
    arguments : geometry.Convolution, geometry.ConvolutionTranspose or geometry.Pooling
        The rest, normalised.
    dtype : str
    """

    name: str
    data: Ints
    arguments: Union[geometry.Convolution, geometry.ConvolutionTranspose, geometry.Pooling]
    dtype: str = 'float32'

    @property
    def op(self) -> str:
        return type(self.arguments).__name__.lower()

    @property
    def batch(self) -> int:
        return self.data[0]

    @property
    def in_channels(self) -> int:
        return geometry.split_shape('bench', self.data, self.arguments.layout)[1]

    @property
    def is_for_peers(self) -> bool:
        """Whether the peers' workers can build it: plain layers over two axes."""
        plain = not isinstance(self.arguments, geometry.ConvolutionTranspose)
        return plain and self.arguments.layout == 'NCHW' and self.dtype == 'float32'

    @property
    def title(self) -> str:
        return f'{self.name}, batch {self.batch}'

    @property
    def weight(self) -> Ints:
        """The shape of the weight; empty for pooling."""
        if isinstance(self.arguments, geometry.Pooling):
            return ()
        return geometry.weight_shape(self.arguments, self.in_channels)

    @property
    def out(self) -> Ints:
        if isinstance(self.arguments, geometry.Pooling):
            return geometry.pooling_shape(self.arguments, self.data)
        if isinstance(self.arguments, geometry.ConvolutionTranspose):
            return geometry.convolution_transpose_shape(self.arguments, self.data, self.weight)
        return geometry.convolution_shape(self.arguments, self.data, self.weight)

    def operations(self, name: str) -> float:
        """Multiplications and additions of a pass, as the direct algorithm does them.

        Each of the two gradients takes as many as the forward pass. 0 for pooling, whose limit is
        memory.
        """
        if not self.weight:
            return 0.0
        transposed = isinstance(self.arguments, geometry.ConvolutionTranspose)
        windows = _product(self.data if transposed else self.out)
        return 2.0 * windows * _product(self.weight[1:]) * (1 if name == 'forward' else 3)

    def bytes_moved(self, name: str) -> float:
        """Bytes that a pass must at least read or write: data and output, then their gradients."""
        once = BYTES[self.dtype] * (_product(self.data) + _product(self.out))
        return float(once * (1 if name == 'forward' else 2))

    def describe(self) -> Dict[str, Any]:
        """Everything that another process needs to build the layer, fit for JSON."""
        return {
            'op': self.op,
            'name': self.name,
            'batch': self.batch,
            'data': list(self.data),
            'weight': list(self.weight),
            'out': list(self.out),
            'dtype': self.dtype,
            **self.arguments._asdict(),
        }


def _product(sizes: Iterable[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


# --------------------------------------------------------------------------- writing them down

SMALL = (1, 8, 32)
USUAL = (1, 8)
ONE = (1,)


def _axes(value: Any, ndim: int = 2) -> Ints:
    return value if isinstance(value, tuple) else (value,) * ndim


def _text(value: Any, ndim: int = 2) -> str:
    return 'x'.join(map(str, _axes(value, ndim)))


def convolution(
    kernel: Any,
    channels: Tuple[int, int],
    size: Any,
    batches: Sequence[int] = USUAL,
    stride: Any = 1,
    padding: Any = None,
    dilation: int = 1,
    groups: int = 1,
    layout: str = 'NCHW',
    dtype: str = 'float32',
) -> List[Layer]:
    """Return one layer for each batch size; without `padding`, stride 1 keeps the data's size."""
    ndim = len(layout) - 2
    same = tuple(dilation * (k - 1) // 2 for k in _axes(kernel, ndim))
    arguments = geometry.convolution_arguments(
        'bench',
        _axes(kernel, ndim),
        stride,
        same if padding is None else padding,
        dilation,
        channels[1],
        groups,
        layout,
        channels[0],
    )
    depthwise = groups == channels[0] == channels[1] > 1
    parts = [] if dtype == 'float32' else [dtype]
    parts += ['depthwise'] if depthwise else []
    parts.append(_text(kernel, ndim) + _stride(arguments.stride))
    if dilation > 1:
        parts.append(f'dilation {dilation}')
    if arguments.pad != same:
        parts.append(f'padding {_text(arguments.pad)}' if any(arguments.pad) else 'unpadded')
    parts.append(f'{channels[0]}' if depthwise else f'{channels[0]} to {channels[1]}')
    if groups > 1 and not depthwise:
        parts.append(f'in {groups} groups')
    if layout[1] != 'C':
        parts.append(f'in {layout}')
    name = f'{" ".join(parts)}, {_text(size, ndim)}'
    sizes = _axes(size, ndim)
    return [
        Layer(name, geometry.join_shape(batch, channels[0], sizes, layout), arguments, dtype)
        for batch in batches
    ]


def upsampling(
    kernel: int,
    channels: Tuple[int, int],
    size: int,
    batches: Sequence[int] = USUAL,
    stride: int = 2,
    padding: int = 0,
) -> List[Layer]:
    """Return one transposed convolution for each batch size."""
    arguments = geometry.convolution_transpose_arguments(
        'bench', kernel, stride, padding, 0, 1, channels[1], 1, 'NCHW', channels[0]
    )
    name = (
        f'transposed {_text(kernel)}{_stride(arguments.stride)} {channels[0]} to {channels[1]},'
        f' {_text(size)}'
    )
    return [Layer(name, (batch, channels[0], size, size), arguments) for batch in batches]


def pooling(
    mode: str,
    window: Any,
    channels: int,
    size: Any,
    batches: Sequence[int] = USUAL,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    p: int = 2,
) -> List[Layer]:
    """Return one layer for each batch size; `window` None pools globally."""
    arguments = geometry.pooling_arguments(
        'bench',
        1 if window is None else window,
        stride,
        padding,
        mode,
        ceil_mode,
        count_include_pad,
        p,
        window is None,
        'NCHW',
    )
    parts = [mode + (str(p) if mode == 'lp' else '')]
    parts.append('global' if window is None else _text(window) + _stride(arguments.stride))
    if any(arguments.pad):
        parts.append('padded' if count_include_pad else 'padded, not counted,')
    if ceil_mode:
        parts.append('ceil')
    name = f'{" ".join(parts)} {channels}, {_text(size)}'
    return [Layer(name, (batch, channels) + _axes(size), arguments) for batch in batches]


def _stride(stride: Ints) -> str:
    if set(stride) == {1}:
        return ''
    return f'/{stride[0]}' if len(set(stride)) == 1 else f'/({_text(stride)})'


def _join(*groups: List[Layer]) -> List[Layer]:
    return [layer for group in groups for layer in group]


# --------------------------------------------------------------------------- the suites

SUITES: Dict[str, List[Layer]] = {
    # ResNet-18 and ResNet-50
    'resnet': _join(
        convolution(7, (3, 64), 224, stride=2),
        convolution(3, (64, 64), 56),
        convolution(3, (128, 128), 28),
        convolution(3, (256, 256), 14),
        convolution(3, (512, 512), 7),
        convolution(3, (64, 128), 56, stride=2),
        convolution(3, (256, 256), 28, stride=2),
        convolution(1, (64, 64), 56),
        convolution(1, (64, 256), 56),
        convolution(1, (512, 128), 28),
        convolution(1, (256, 1024), 14),
        convolution(1, (512, 2048), 7),
        convolution(1, (256, 512), 56, stride=2),
        convolution(1, (1024, 2048), 14, stride=2),
    ),
    'vgg': _join(
        convolution(3, (3, 64), 224),
        convolution(3, (64, 64), 224),
        convolution(3, (64, 128), 112),
        convolution(3, (128, 128), 112),
        convolution(3, (256, 256), 56),
        convolution(3, (512, 512), 28),
        convolution(3, (512, 512), 14),
    ),
    'mobilenet': _join(
        convolution(3, (3, 32), 224, stride=2),
        convolution(3, (32, 32), 112, groups=32),
        convolution(3, (64, 64), 112, stride=2, groups=64),
        convolution(3, (128, 128), 56, groups=128),
        convolution(3, (256, 256), 28, stride=2, groups=256),
        convolution(3, (512, 512), 14, groups=512),
        convolution(3, (1024, 1024), 7, groups=1024),
        convolution(5, (120, 120), 28, groups=120),
        convolution(5, (240, 240), 28, stride=2, groups=240),
        convolution(1, (32, 64), 112),
        convolution(1, (128, 128), 56),
        convolution(1, (512, 512), 14),
        convolution(1, (1024, 1024), 7),
    ),
    'inception': _join(
        convolution((1, 7), (128, 128), 17),
        convolution((7, 1), (128, 128), 17),
        convolution((1, 7), (192, 192), 17),
        convolution((7, 1), (192, 192), 17),
        convolution((1, 3), (384, 384), 8),
        convolution((3, 1), (384, 384), 8),
        convolution(5, (48, 64), 35),
        convolution(3, (96, 96), 35),
        convolution(3, (288, 384), 35, stride=2, padding=0),
        convolution(1, (192, 64), 35),
        convolution(1, (768, 192), 17),
    ),
    'lenet': _join(
        convolution(5, (1, 6), 28, SMALL),
        convolution(5, (6, 16), 14, SMALL, padding=0),
        convolution(5, (16, 120), 5, SMALL, padding=0),
        pooling('max', 2, 6, 28, SMALL),
        pooling('avg', 2, 16, 10, SMALL),
    ),
    'unet': _join(
        convolution(3, (3, 16), 512, ONE),
        convolution(3, (16, 16), 512, ONE),
        convolution(3, (48, 16), 512, ONE),
        convolution(1, (16, 1), 512, ONE),
        convolution(3, (3, 16), 256),
        convolution(3, (16, 16), 256),
        convolution(3, (16, 32), 256),
        convolution(3, (32, 32), 128),
    ),
    # DeepLab
    'dilated': _join(
        convolution(3, (64, 64), 56, dilation=2),
        convolution(3, (256, 256), 28, dilation=2),
        convolution(3, (512, 512), 28, ONE, dilation=4),
        convolution(3, (256, 256), 33, dilation=6),
        convolution(3, (256, 256), 33, dilation=12),
    ),
    # ResNeXt-50, AlexNet's two halves, and pointwise groups as in ShuffleNet
    'grouped': _join(
        convolution(3, (128, 128), 56, groups=32),
        convolution(3, (256, 256), 56, stride=2, groups=32),
        convolution(3, (256, 256), 28, groups=32),
        convolution(3, (512, 512), 14, groups=32),
        convolution(3, (1024, 1024), 7, groups=32),
        convolution(5, (96, 256), 27, groups=2),
        convolution(1, (240, 240), 28, groups=3),
    ),
    'pooling': _join(
        pooling('max', 3, 64, 112, stride=2, padding=1),
        pooling('max', 3, 192, 56, stride=2, ceil_mode=True),
        pooling('max', 2, 64, 56, SMALL),
        pooling('max', 2, 64, 224, ONE),
        pooling('max', 3, 192, 28, stride=1, padding=1),
        pooling('avg', 3, 192, 35, stride=1, padding=1),
        pooling('avg', 3, 192, 35, stride=1, padding=1, count_include_pad=False),
        pooling('avg', 2, 128, 56),
        pooling('avg', None, 512, 7, SMALL),
        pooling('avg', None, 2048, 7),
        pooling('max', None, 512, 7, SMALL),
        pooling('sum', 2, 64, 56),
        pooling('sum', 3, 64, 56, stride=1, padding=1),
        pooling('lp', 2, 64, 56),
        pooling('lp', 3, 64, 56, stride=2, padding=1),
    ),
    # recordings of one second
    'conv1d': _join(
        convolution(9, (64, 64), 16000, layout='NCW'),
        convolution(80, (64, 64), 16000, ONE, padding=0, layout='NCW'),
        convolution(80, (1, 64), 16000, stride=4, padding=38, layout='NCW'),
        convolution(3, (256, 256), 500, layout='NCW'),
    ),
    # films of 16 pictures
    'conv3d': _join(
        convolution(3, (64, 64), (16, 56, 56), ONE, layout='NCDHW'),
        convolution(3, (3, 64), (16, 112, 112), ONE, stride=(1, 2, 2), layout='NCDHW'),
        convolution((3, 1, 1), (64, 64), (16, 56, 56), ONE, layout='NCDHW'),
        convolution(3, (128, 128), (8, 28, 28), ONE, layout='NCDHW'),
    ),
    # the ways up of a U-Net and of the generator of a DCGAN
    'deconv': _join(
        upsampling(2, (256, 128), 28),
        upsampling(2, (64, 32), 112),
        upsampling(4, (512, 256), 4, SMALL, padding=1),
        upsampling(4, (256, 128), 8, SMALL, padding=1),
        upsampling(4, (128, 64), 16, SMALL, padding=1),
        upsampling(4, (64, 3), 32, SMALL, padding=1),
    ),
    'float64': _join(
        convolution(3, (64, 64), 56, dtype='float64'),
        convolution(3, (256, 256), 14, dtype='float64'),
        convolution(1, (256, 256), 28, dtype='float64'),
        convolution(3, (128, 128), 56, groups=128, dtype='float64'),
        convolution(7, (3, 64), 224, stride=2, dtype='float64'),
    ),
    # beside MXNet's layers in NCHW, for it has none in this layout
    'nhwc': _join(
        convolution(3, (64, 64), 56, layout='NHWC'),
        convolution(3, (256, 256), 14, layout='NHWC'),
        convolution(1, (256, 256), 28, layout='NHWC'),
        convolution(3, (128, 128), 56, groups=128, layout='NHWC'),
        convolution(7, (3, 64), 224, stride=2, layout='NHWC'),
    ),
    # the arrays of the document with which the project began
    'seed': _join(
        convolution(2, (1, 1), 3, ONE, padding=0),
        convolution(3, (1, 1), 8, ONE, stride=2),
        convolution((3, 5), (1, 1), 8, ONE, stride=(3, 4), padding=(0, 1)),
        pooling('max', 2, 1, 3, ONE, stride=1),
        pooling('avg', 2, 1, 3, ONE, stride=1),
        pooling('max', 2, 1, 4, ONE),
        pooling('max', 2, 2, 4, ONE),
    ),
}
DEFAULT_SUITE = 'resnet'
ALL = 'all'


def select(
    names: Sequence[str] = (DEFAULT_SUITE,),
    batches: Optional[Sequence[int]] = None,
    text: str = '',
) -> List[Tuple[str, Layer]]:
    """List layers with the name of their suite, in the order of `SUITES`.

    Parameters
    ----------
    names : sequence of str
        Names of suites; 'all' stands for every one.
    batches : sequence of int, optional
        Keep only layers of these batch sizes.
    text : str
        Keep only layers with this in their name.

    Returns
    -------
    list of (str, Layer)

    Raises
    ------
    ValueError
        If a suite is unknown, or nothing is left.

    Examples
    --------
    >>> from gluon_convpool.bench import suites
    >>> [layer.title for _, layer in suites.select(['resnet'], batches=[1], text='512 to 512')]
    ['3x3 512 to 512, 7x7, batch 1']
    """
    for name in names:
        if name != ALL and name not in SUITES:
            raise ValueError(f'there is no suite {name!r}; there are {", ".join([*SUITES, ALL])}')
    chosen = [name for name in SUITES if name in names or ALL in names]
    found = [
        (name, layer)
        for name in chosen
        for layer in SUITES[name]
        if (not batches or layer.batch in batches) and text.lower() in layer.name.lower()
    ]
    if not found:
        raise ValueError(f'no layer of {", ".join(chosen)} is left by --batch and --filter')
    return found
