"""A case: one call of a layer, its arrays, and what the layer must give.

MXNet's built-in layer says what that is, or the float64 loops of `reference` where the built-in
layer cannot run the case. The arrays are drawn from a seed that is the name of the case.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable, Dict, Iterator, Optional, Tuple, TypeVar, Union

import numpy as np
from mxnet.gluon.nn import conv_layers as builtin

from .. import geometry
from . import reference
from .arrays import draw, to_array
from .measurement import measure, parameters
from .reference import per_axis
from .reproducer import remember

Window = Union[int, Tuple[int, ...]]
Arrays = Dict[str, np.ndarray]
Result = TypeVar('Result')


def _remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    return functools.lru_cache(maxsize=None)(function)


def _text(value: Window) -> str:
    return str(value) if isinstance(value, int) else 'x'.join(map(str, value))


class _Case:
    """What both kinds of cases share."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        given = ((field.name, getattr(self, field.name), field.default) for field in fields)
        values = ', '.join(f'{name}={value!r}' for name, value, usual in given if value != usual)
        return f'{type(self).__name__}({values})'

    @property
    def layer_name(self) -> str:
        """The name of the layer's class."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """What the case is one of, such as 'max pooling'."""
        raise NotImplementedError

    size: Tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    def _per_axis(self, value: Window) -> Tuple[int, ...]:
        return per_axis(value, self.ndim)

    @property
    def arguments(self) -> Dict[str, Any]:
        """What the layer's class is called with."""
        raise NotImplementedError

    @property
    def builtin_can_run(self) -> bool:
        """Whether MXNet's layer can say what the layer must give."""
        raise NotImplementedError

    def arrays(self) -> Arrays:
        """Return the input, 'x', and the parameters by name, in float32."""
        raise NotImplementedError

    def from_loops(self) -> Tuple[np.ndarray, Arrays]:
        """Return what `expected` does, by the float64 loops of `reference`."""
        raise NotImplementedError

    @property
    def x(self) -> np.ndarray:
        """The input."""
        return self.arrays()['x']

    @property
    def parameters(self) -> Arrays:
        """The parameters by name."""
        return {name: value for name, value in self.arrays().items() if name != 'x'}

    def build(self, source: Any) -> Any:
        """Return the layer of this case, with the parameters of the case in it.

        Parameters
        ----------
        source : module or class or callable
            Where the layer's class is: a namespace that has it under `layer_name`, such as
            ``gluon_convpool.nn`` or ``testing.BUILTIN``; or the class itself, which takes
            `arguments`.

        Returns
        -------
        gluon.Block
        """
        layer = getattr(source, self.layer_name, source)(**self.arguments)
        if parameters(layer):
            layer.initialize()
        for name, parameter in parameters(layer).items():
            if name in self.parameters:
                parameter.set_data(to_array(self.parameters[name]))
        remember(layer, self, source)
        return layer

    @_remembered
    def expected(self) -> Tuple[np.ndarray, Arrays]:
        """Return what the layer must give.

        Returns
        -------
        head : numpy.ndarray
            The gradient of the output.
        expected : dict of str to numpy.ndarray
            'output', and the gradients 'x' and one under each parameter's name.
        """
        if not self.builtin_can_run:
            return self.from_loops()
        layer = self.build(BUILTIN)
        (head,) = draw(f'head of {self}', layer(to_array(self.x)).shape)
        return head, measure(layer, self.x, head)


@dataclasses.dataclass(frozen=True, repr=False)
class ConvolutionCase(_Case):
    """One call of a convolution layer over one, two or three spatial axes.

    Parameters
    ----------
    batch : int
    channels : (int, int)
        Of the input and of the output.
    size : tuple of int
        Spatial sizes of the input, one for each axis.
    kernel_size, strides, padding, dilation : int or tuple of int
        As in ``gluon.nn.Conv2D``, as all that follows.
    groups : int
    use_bias : bool
    activation : str, optional

    Examples
    --------
    >>> from gluon_convpool import nn, testing
    >>> case = testing.ConvolutionCase(size=(8, 8), padding=1, strides=2)
    >>> case
    ConvolutionCase(size=(8, 8), strides=2, padding=1)
    >>> print(case, case.x.shape)
    2x3to4x8x8-k3-s2-p1 (2, 3, 8, 8)
    >>> head, expected = case.expected()
    >>> {name: value.shape for name, value in expected.items()}
    {'output': (2, 4, 4, 4), 'x': (2, 3, 8, 8), 'weight': (4, 3, 3, 3), 'bias': (4,)}
    >>> testing.assert_layers_match(case.build(nn), case)
    """

    batch: int = 2
    channels: Tuple[int, int] = (3, 4)
    size: Tuple[int, ...] = (11, 13)
    kernel_size: Window = 3
    strides: Window = 1
    padding: Window = 0
    dilation: Window = 1
    groups: int = 1
    use_bias: bool = True
    activation: Optional[str] = None

    kind = 'convolution'

    @property
    def layer_name(self) -> str:
        """The class of Gluon."""
        return f'Conv{self.ndim}D'

    def __str__(self) -> str:
        text = '{}x{}to{}x{}-k{}'.format(
            self.batch, *self.channels, _text(self.size), _text(self.kernel_size)
        )
        for letter, value, default in (
            ('s', self.strides, 1),
            ('p', self.padding, 0),
            ('d', self.dilation, 1),
            ('g', self.groups, 1),
        ):
            text += '' if value == default else '-' + letter + _text(value)
        text += '' if self.use_bias else '-nobias'
        return text if self.activation is None else text + '-' + self.activation

    @property
    def arguments(self) -> Dict[str, Any]:
        """What the layer's class is called with."""
        names = ('kernel_size', 'strides', 'padding', 'dilation', 'groups', 'use_bias')
        return {
            'channels': self.channels[1],
            **{name: getattr(self, name) for name in names},
            'activation': self.activation,
            'in_channels': self.channels[0],
        }

    @property
    def window(self) -> Dict[str, Any]:
        """What the functions of `reference` and of `functional` are called with."""
        names = ('strides', 'padding', 'dilation')
        window = {name: self._per_axis(getattr(self, name)) for name in names}
        return {**window, 'groups': self.groups}

    @property
    def fits(self) -> bool:
        """Whether the kernel is no larger than the padded input."""
        return all(
            n + 2 * p >= geometry.extent(k, d)
            for n, p, k, d in zip(
                self.size, *map(self._per_axis, (self.padding, self.kernel_size, self.dilation))
            )
        )

    @property
    def builtin_can_run(self) -> bool:
        """Whether MXNet's layer runs the case: not an empty batch."""
        return self.batch > 0

    @_remembered
    def arrays(self) -> Arrays:
        inputs, outputs = self.channels
        x, weight, bias = draw(
            str(self),
            (self.batch, inputs) + self.size,
            (outputs, inputs // self.groups) + self._per_axis(self.kernel_size),
            (outputs,),
        )
        found = {'x': x, 'weight': weight}
        return dict(found, bias=bias) if self.use_bias else found

    @_remembered
    def from_loops(self) -> Tuple[np.ndarray, Arrays]:
        assert self.activation is None
        arrays = self.arrays()
        y = reference.convolution(arrays['x'], arrays['weight'], arrays.get('bias'), **self.window)
        (head,) = draw(f'head of {self}', y.shape)
        dx, dweight, dbias = reference.convolution_gradients(
            head, arrays['x'], arrays['weight'], **self.window
        )
        expected = {'output': y, 'x': dx, 'weight': dweight}
        return head, dict(expected, bias=dbias) if self.use_bias else expected


@dataclasses.dataclass(frozen=True, repr=False)
class ConvolutionTransposeCase(ConvolutionCase):
    """One call of a transposed convolution layer over one, two or three spatial axes.

    Parameters
    ----------
    batch : int
    channels : (int, int)
        Of the input and of the output.
    size : tuple of int
        Spatial sizes of the input, one for each axis.
    kernel_size, strides, padding, dilation : int or tuple of int
        As in ``gluon.nn.Conv2DTranspose``, as all that follows.
    groups : int
    use_bias : bool
    activation : str, optional
    output_padding : int or tuple of int

    Examples
    --------
    >>> from gluon_convpool import nn, testing
    >>> case = testing.ConvolutionTransposeCase(size=(4, 4), strides=2, output_padding=1)
    >>> print(case, case.layer_name)
    transposed-2x3to4x4x4-k3-s2-a1 Conv2DTranspose
    >>> testing.assert_layers_match(case.build(nn), case)
    """

    output_padding: Window = 0

    kind = 'transposed convolution'

    def __str__(self) -> str:
        text = 'transposed-' + super().__str__()
        return text if self.output_padding == 0 else f'{text}-a{_text(self.output_padding)}'

    @property
    def layer_name(self) -> str:
        """The class of Gluon."""
        return f'Conv{self.ndim}DTranspose'

    @property
    def arguments(self) -> Dict[str, Any]:
        """What the layer's class is called with."""
        return {**super().arguments, 'output_padding': self.output_padding}

    @property
    def window(self) -> Dict[str, Any]:
        """What the functions of `reference` and of `functional` are called with."""
        return {**super().window, 'output_padding': self._per_axis(self.output_padding)}

    @property
    def fits(self) -> bool:
        """Whether something is left of the output, and `output_padding` is not too large."""
        smaller = zip(self._per_axis(self.output_padding), self._per_axis(self.strides))
        return all(a < s for a, s in smaller) and min(self._output_size()) > 0

    @property
    def builtin_can_run(self) -> bool:
        """Whether MXNet's layer runs the case: no empty batch, and over three axes no dilation."""
        return self.batch > 0 and (self.ndim < 3 or set(self._per_axis(self.dilation)) == {1})

    def _output_size(self) -> Tuple[int, ...]:
        window = (self.kernel_size, self.strides, self.padding, self.dilation, self.output_padding)
        return tuple(
            (n - 1) * s - 2 * p + geometry.extent(k, d) + a
            for n, k, s, p, d, a in zip(self.size, *map(self._per_axis, window))
        )

    @_remembered
    def arrays(self) -> Arrays:
        inputs, outputs = self.channels
        x, weight, bias = draw(
            str(self),
            (self.batch, inputs) + self.size,
            (inputs, outputs // self.groups) + self._per_axis(self.kernel_size),
            (outputs,),
        )
        found = {'x': x, 'weight': weight}
        return dict(found, bias=bias) if self.use_bias else found

    @_remembered
    def from_loops(self) -> Tuple[np.ndarray, Arrays]:
        assert self.activation is None
        arrays, window = self.arrays(), self.window
        y = reference.convolution_transpose(
            arrays['x'], arrays['weight'], arrays.get('bias'), **window
        )
        (head,) = draw(f'head of {self}', y.shape)
        dx, dweight, dbias = reference.convolution_transpose_gradients(
            head, arrays['x'], arrays['weight'], **window
        )
        expected = {'output': y, 'x': dx, 'weight': dweight}
        return head, dict(expected, bias=dbias) if self.use_bias else expected


@dataclasses.dataclass(frozen=True, repr=False)
class PoolingCase(_Case):
    """One call of a pooling layer over one, two or three spatial axes.

    Parameters
    ----------
    mode : {'max', 'avg', 'sum', 'lp'}
    batch, channels : int
    size : tuple of int
        Spatial sizes of the input, one for each axis.
    pool_size, strides, padding : int or tuple of int
        As in ``gluon_convpool.Pool2D``, as all that follows.
    ceil_mode, count_include_pad : bool
    p : {1, 2, 3}
    global_pool : bool

    Examples
    --------
    >>> from gluon_convpool import nn, testing
    >>> case = testing.PoolingCase('avg', size=(5, 5), pool_size=3, padding=1)
    >>> print(case, case.layer_name)
    avg-2x3x5x5-k3-p1 AvgPool2D
    >>> testing.assert_layers_match(case.build(nn), case)
    """

    mode: str = 'max'
    batch: int = 2
    channels: int = 3
    size: Tuple[int, ...] = (9, 12)
    pool_size: Window = 2
    strides: Optional[Window] = None
    padding: Window = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    p: int = 2
    global_pool: bool = False

    def __str__(self) -> str:
        text = self.mode + (str(self.p) if self.mode == 'lp' else '')
        text += f'-{self.batch}x{self.channels}x{_text(self.size)}'
        if self.global_pool:
            return text + '-global'
        text += '-k' + _text(self.pool_size)
        text += '' if self.strides is None else '-s' + _text(self.strides)
        text += '' if self.padding == 0 else '-p' + _text(self.padding)
        text += '-ceil' if self.ceil_mode else ''
        return text if self.count_include_pad else text + '-inside'

    @property
    def kind(self) -> str:
        """What the case is one of."""
        return f'{self.mode} pooling'

    @property
    def layer_name(self) -> str:
        """The class of Gluon; the modes that Gluon has no layer for are ours, such as 'Pool2D'."""
        name = f'{ {"max": "Max", "avg": "Avg"}.get(self.mode, "") }Pool{self.ndim}D'
        builtin_has_it = self.mode in ('max', 'avg')
        return 'Global' + name if self.global_pool and builtin_has_it else name

    @property
    def window(self) -> Dict[str, Any]:
        """What ``Pool2D`` and the functions of `reference` and `functional` are called with."""
        inputs = ('batch', 'channels', 'size')
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in inputs
        }

    @property
    def arguments(self) -> Dict[str, Any]:
        """What the layer's class is called with."""
        if self.layer_name.startswith('Pool'):
            return self.window
        if self.global_pool:
            return {}
        names = ['pool_size', 'strides', 'padding', 'ceil_mode']
        names += ['count_include_pad'] if self.mode == 'avg' else []
        return {name: getattr(self, name) for name in names}

    def _last_windows(self) -> Iterator[Tuple[int, int, int, int]]:
        """Start and end of the last window of each axis, and the size and padding of the axis."""
        strides = self._per_axis(self.pool_size if self.strides is None else self.strides)
        for n, k, s, p in zip(
            self.size, self._per_axis(self.pool_size), strides, self._per_axis(self.padding)
        ):
            start = (geometry.output_size(n, k, s, p, ceil=self.ceil_mode) - 1) * s - p
            yield start, start + k, n, p

    @property
    def builtin_can_run(self) -> bool:
        """Whether MXNet's layer runs the case, and with a gradient that belongs to its output.

        It does not run an empty batch, and has no sane answer for a window without any input, both
        left to us to define. Where ceil mode cuts a window short, its average divides by the cut
        size and its gradient by the whole one.
        """
        if self.batch == 0:
            return False
        if self.global_pool:
            return True
        last = list(self._last_windows())
        empty = any(start >= n for start, _, n, _ in last)
        cut = any(stop > n + p for _, stop, n, p in last)
        return not empty and not (cut and self.mode == 'avg' and self.count_include_pad)

    @_remembered
    def arrays(self) -> Arrays:
        # Without signs for lp, whose odd powers would cancel.
        (x,) = draw(str(self), (self.batch, self.channels) + self.size)
        return {'x': np.abs(x) if self.mode == 'lp' else x}

    @_remembered
    def from_loops(self) -> Tuple[np.ndarray, Arrays]:
        y = reference.pooling(self.x, **self.window)
        (head,) = draw(f'head of {self}', y.shape)
        return head, {'output': y, 'x': reference.pooling_gradient(head, self.x, **self.window)}


class _AnyPooling(builtin._Pooling):
    """MXNet's own pooling block, also for the modes that Gluon has no public layer for."""

    ndim: int

    def __init__(
        self,
        pool_size: Window,
        strides: Optional[Window],
        padding: Window,
        mode: str,
        ceil_mode: bool,
        count_include_pad: bool,
        p: int,
        global_pool: bool,
    ) -> None:
        super().__init__(
            per_axis(pool_size, self.ndim),
            per_axis(pool_size if strides is None else strides, self.ndim),
            per_axis(padding, self.ndim),
            ceil_mode,
            global_pool,
            mode,
            geometry.LAYOUTS[self.ndim][0],
            count_include_pad if mode == 'avg' else None,
        )
        if mode == 'lp':
            self._kwargs['p_value'] = p


class BUILTIN:
    """MXNet's own layers under the names that a case builds from.

    Examples
    --------
    >>> from gluon_convpool import testing
    >>> type(testing.PoolingCase('max').build(testing.BUILTIN)).__module__
    'mxnet.gluon.nn.conv_layers'
    """

    Conv1D, Conv2D, Conv3D = builtin.Conv1D, builtin.Conv2D, builtin.Conv3D
    Conv1DTranspose = builtin.Conv1DTranspose
    Conv2DTranspose = builtin.Conv2DTranspose
    Conv3DTranspose = builtin.Conv3DTranspose
    MaxPool1D, MaxPool2D, MaxPool3D = builtin.MaxPool1D, builtin.MaxPool2D, builtin.MaxPool3D
    AvgPool1D, AvgPool2D, AvgPool3D = builtin.AvgPool1D, builtin.AvgPool2D, builtin.AvgPool3D
    GlobalMaxPool1D = builtin.GlobalMaxPool1D
    GlobalMaxPool2D = builtin.GlobalMaxPool2D
    GlobalMaxPool3D = builtin.GlobalMaxPool3D
    GlobalAvgPool1D = builtin.GlobalAvgPool1D
    GlobalAvgPool2D = builtin.GlobalAvgPool2D
    GlobalAvgPool3D = builtin.GlobalAvgPool3D
    Pool1D, Pool2D, Pool3D = (
        type(f'Pool{n}D', (_AnyPooling,), {'ndim': n, '__module__': __name__}) for n in (1, 2, 3)
    )


Case = Union[ConvolutionCase, PoolingCase]
