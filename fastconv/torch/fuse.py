"""Programs of user modules: their forward, with chains of convolution, norm, addition and ReLU in one call.

A module's forward is traced by torch.fx only if its source shows that the trace is all that it does: it calls
children, methods of the same kind and functions of torch that depend on their arguments alone, assigns local
names, and reads attributes that are compared before every later call. All others run as they are.
"""

import ast
import inspect
import operator
import textwrap

from ..extras import require
from . import modules
from .modules import nn
from .ops import torch

fx = require("torch.fx", "torch")

# What depends on its arguments alone, and takes a tensor.
FUNCTIONS = {"adaptive_avg_pool2d", "add", "avg_pool2d", "cat", "dropout", "flatten", "log_softmax",
             "max_pool2d", "mean", "pad", "relu", "reshape", "sigmoid", "softmax", "tanh"}
METHODS = {"flatten", "mean", "relu", "reshape", "size", "view"}
BUILTINS = {"getattr", "hasattr", "len", "range"}
NODES = (ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.Expr, ast.If,
         ast.For, ast.IfExp, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Call, ast.Attribute,
         ast.Subscript, ast.Name, ast.Constant, ast.Tuple, ast.List, ast.JoinedStr, ast.FormattedValue,
         ast.keyword, ast.Slice, ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop)
SIMPLE = (bool, int, float, str, type(None))
OF_TORCH = {*vars(nn.Module()), "_program"} - {"training"}
RELU = (nn.functional.relu, torch.relu)
ADD = (operator.add, operator.iadd, torch.add)


def _is_simple(value):
    return isinstance(value, SIMPLE) or (isinstance(value, tuple) and all(map(_is_simple, value)))


def _attributes(module):
    """(name, value) of the attributes that are not torch's own, and the mode."""
    return [(name, value) for name, value in vars(module).items() if name not in OF_TORCH]


def state(module):
    """What a trace of the module depends on, to be compared."""
    return ([(name, value if _is_simple(value) else id(value)) for name, value in _attributes(module)],
            [(name, id(child), type(child)) for name, child in module._modules.items()],
            [(name, value is None) for named in (module._parameters, module._buffers)
             for name, value in named.items()])


def _is_pure(function, owner, seen):
    """Whether all that the method does is what fx records of it."""
    if function in seen:
        return True
    seen.add(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    [definition] = tree.body
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list or function.__closure__:
        return False
    arguments = definition.args
    if arguments.vararg or arguments.kwarg or arguments.defaults or arguments.kwonlyargs:
        return False
    for annotated in ast.walk(definition):
        if isinstance(annotated, (ast.arg, ast.FunctionDef)):
            annotated.annotation = annotated.returns = None
    local = {node.id for node in ast.walk(definition)
             if isinstance(node, ast.Name) and type(node.ctx) is ast.Store}
    local |= {argument.arg for argument in arguments.args}
    return all(_is_harmless(node, local, function, owner, seen) for node in ast.walk(definition))


def _is_harmless(node, local, function, owner, seen):
    if not isinstance(node, NODES):
        return False
    if isinstance(node, ast.AugAssign):
        return type(node.op) is ast.Add and isinstance(node.target, ast.Name)
    if isinstance(node, (ast.Attribute, ast.Subscript)) and type(node.ctx) is not ast.Load:
        return False
    if isinstance(node, ast.Name) and type(node.ctx) is ast.Load and node.id not in local:
        builtin = node.id in BUILTINS and node.id not in function.__globals__
        return builtin or _module(node, function) is not None
    if isinstance(node, ast.Attribute) and _is_self(node.value):
        return not isinstance(getattr(type(owner), node.attr, None), property)
    if isinstance(node, ast.Subscript) and _is_self(node.value):
        return hasattr(type(owner), "__getitem__") and _is_pure(type(owner).__getitem__, owner, seen)
    if isinstance(node, ast.Call):
        return _is_harmless_call(node.func, local, function, owner, seen)
    return True


def _is_self(node):
    return isinstance(node, ast.Name) and node.id == "self"


def _module(node, function):
    """torch, torch.nn or torch.nn.functional, where the expression is one of them."""
    if isinstance(node, ast.Name):
        value = function.__globals__.get(node.id)
    else:
        value = isinstance(node, ast.Attribute) and getattr(_module(node.value, function), node.attr, None)
    return value if any(value is module for module in (torch, nn, nn.functional)) else None


def _is_harmless_call(func, local, function, owner, seen):
    if isinstance(func, ast.Name):
        return func.id in BUILTINS and func.id not in local
    if isinstance(func, ast.Subscript):  # self["name"](x), looked at as a subscript
        return _is_self(func.value)
    if not isinstance(func, ast.Attribute):
        return False
    if _is_self(func.value):
        if func.attr in owner._modules:
            return True
        method = getattr(type(owner), func.attr, None)
        if method is None:  # not there: a call that is not reached, or fails as ever
            return _is_simple(vars(owner).get(func.attr))
        return inspect.isfunction(method) and _is_pure(method, owner, seen)
    if _module(func.value, function) is not None:
        return func.attr in FUNCTIONS
    return func.attr in METHODS


class _Proxy(fx.Proxy):
    """Records x += y as what it is; fx itself makes it x = x + y, which leaves the other names of x alone."""

    def __iadd__(self, other):
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    traced_func_name = "_forward"
    proxy_buffer_attributes = True  # so that no branch depends on the value of a buffer

    def is_leaf_module(self, module, name):
        return True

    def proxy(self, node):
        return _Proxy(node, self)


def _relu_of(node, root):
    """True or the module, where the node is a ReLU; else None."""
    if node.op == "call_module":
        module = root.get_submodule(node.target)
        return node.target if type(module) in (nn.ReLU, modules.ReLU) and len(node.args) == 1 else None
    if node.op == "call_function":
        return True if node.target in RELU else None
    return True if (node.op, node.target) == ("call_method", "relu") else None


def _fusable(node, root):
    return (isinstance(node, fx.Node) and node.op == "call_module" and len(node.users) == 1
            and type(root.get_submodule(node.target)) in (modules.Conv2d, modules.BatchNorm2d)
            and len(node.args) == 1 and not node.kwargs)


def _is_sum(node):
    return (node.op == "call_function" and node.target in ADD and len(node.args) == 2 and not node.kwargs
            and all(isinstance(arg, fx.Node) for arg in node.args))


def _residual(node, root):
    """(module node, residual node) of an addition that the module can do, or None.

    The module moves to where the addition is: what it reads must be nobody else's, so that nothing between
    the two changes it. An addition in place must be to the module's result, which nobody else sees.
    """
    if not _is_sum(node):
        return None
    for module, residual in (node.args, node.args[::-1])[:1 if node.target is operator.iadd else 2]:
        if _fusable(module, root) and module is not residual:
            source = module.args[0]
            if (isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1
                    and type(root.get_submodule(module.target)) is modules.BatchNorm2d):
                return module, residual
    return None


def _replace(graph, node, function, args, absorbed):
    with graph.inserting_before(node):
        new = graph.call_function(function, args)
    node.replace_all_uses_with(new)
    for gone in (node, *absorbed):
        graph.erase_node(gone)


def _fuse(graph, root):
    """Rewrites the graph; returns whether anything changed."""
    changed = False
    for node in list(graph.nodes):
        relu = _relu_of(node, root)
        before = node.args[0] if relu is not None and node.args else None
        if relu is not None and isinstance(before, fx.Node) and len(before.users) == 1:
            _fuse_relu(graph, node, before, relu, root)
            changed = True
        elif node.op == "call_function" and node.target is nn.functional.max_pool2d:
            node.target, changed = modules.max_pool2d, True
    for node in list(graph.nodes):
        if (found := _residual(node, root)) is not None:
            module, residual = found
            with graph.inserting_before(node):
                attribute = graph.get_attr(module.target)
            _replace(graph, node, modules.fused, (attribute, module.args[0], residual), [module])
            changed = True
    for node in list(graph.nodes):
        changed = _fuse_norm(graph, node, root) or changed
    return changed


def _fuse_norm(graph, node, root):
    """A norm, and what has been fused with it, takes the convolution before it; returns whether it does."""
    if node.op == "call_module" and type(root.get_submodule(node.target)) is modules.BatchNorm2d:
        norm, rest, absorbed = node.target, node.args, []
    elif node.target is modules.fused:
        norm, rest, absorbed = node.args[0].target, node.args[1:], [node.args[0]]
    else:
        return False
    conv, *rest = rest
    if not (_fusable(conv, root) and type(root.get_submodule(conv.target)) is modules.Conv2d
            and type(root.get_submodule(norm)) is modules.BatchNorm2d and not node.kwargs):
        return False
    between = node.prev
    while between.op == "get_attr":
        between = between.prev
    if between is not conv and len(conv.args[0].users) > 1:
        return False
    with graph.inserting_before(node):
        both = graph.get_attr(conv.target), graph.get_attr(norm)
    _replace(graph, node, modules.normed, (*both, conv.args[0], *rest), [conv, *absorbed])
    return True


def _fuse_relu(graph, node, before, relu, root):
    with graph.inserting_before(node):
        relu_argument = relu if relu is True else graph.get_attr(relu)
    if _fusable(before, root):
        with graph.inserting_before(node):
            attribute = graph.get_attr(before.target)
        _replace(graph, node, modules.fused, (attribute, before.args[0], None, relu_argument), [before])
    elif (found := _residual(before, root)) is not None:
        module, residual = found
        with graph.inserting_before(node):
            attribute = graph.get_attr(module.target)
        _replace(graph, node, modules.fused, (attribute, module.args[0], residual, relu_argument),
                 [before, module])
    elif _is_sum(before) and before.target is not operator.iadd:
        _replace(graph, node, modules.added, (*before.args, relu_argument), [before])
    elif relu is not True:
        graph.erase_node(relu_argument)


def program(module):
    """The module's forward with fused chains, a function of the module and its inputs, or None."""
    if not all(_is_simple(value) for _, value in _attributes(module)):
        return None
    forward = type(module)._forward
    if forward is not nn.Sequential.forward and not _is_pure(forward, module, set()):
        return None
    try:
        graph = _Tracer().trace(module)
        if not _fuse(graph, module):
            return None
        graph.lint()
    except (fx.proxy.TraceError, TypeError, ValueError, AttributeError, RuntimeError):
        return None
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)
    return names["forward"]
