"""One line of advice where a row is far from its roof, by what was measured of it."""

LEAST_SHARE = 0.01  # of the time of all rows: below it nothing is gained
FAR = 0.6  # of the roof: nearer than this there is nothing to say
SHORT_SUM = 128  # terms: beside so few products storing the result shows
FEW_PIXELS = 256  # of the results of a batch: fewer than some tiles for each of a few threads


def advised(rows, profile):
    """The rows, with their advice."""
    for row in rows:
        if row.share >= LEAST_SHARE:
            row.advice = _advice(row, profile.peaks)
    return rows


def _advice(row, peaks):
    phases = row.phase_shares()
    copied = phases.get("copy", 0.0)
    if row.layout in ("NCHW", "strided") and copied >= 0.15:
        return f"{row.layout} input: {100 * copied:.0f} % in conversion; keep channels-last"
    if row.of_roof >= FAR:
        return ""
    if row.op == "prepare_conv2d":
        return "weights are prepared in the profile: do it once, as Layer.compile does"
    if row.convolution is not None:
        found = _of_convolution(row, phases)
        if found:
            return found
    waiting = phases.get("wait", 0.0)
    if waiting >= 0.2:
        return f"threads wait for each other {100 * waiting:.0f} % of the time: few tasks of unequal size"
    if row.threads < peaks.threads:
        return (f"too little work for more than {_threads(row.threads)}: give it more images at once"
                if row.best < 1e-3 else f"runs on {_threads(row.threads)} alone")
    if row.bound == "memory":
        return _of_memory(row, peaks)
    return ""


def _of_memory(row, peaks):
    moved = f"{1e-9 * row.bytes_per_second:.1f} of {1e-9 * peaks.bandwidth:.0f} GB/s"
    if row.op in ("activation", "add", "batch_norm"):
        return f"bound by memory, {moved}: let the layer before it do this in its own pass (compile, or fuse)"
    return f"memory allows more: {moved}"


def _of_convolution(row, phases):
    problem = row.convolution
    channels, taps = problem.weight_shape[1], problem.weight_shape[2] * problem.weight_shape[3]
    pixels = problem.x_shape[0] * problem.output_shape[2] * problem.output_shape[3]
    moved = 1 - phases["multiply"] if phases.get("multiply") else None
    if problem.groups > 1 and channels == 1:
        return "depthwise: one product for each number loaded; bound by loads and copies, not multiply-adds"
    if channels <= 4 and problem.direction == "backward_input":
        return f"C={channels}: needs_input_grad = False spares a gradient of the data that nobody needs"
    if channels <= 4 and problem.direction == "backward_weight":
        return f"C={channels}: all pixels are read for the gradient of few weights"
    if channels <= 4:
        return (f"C={channels}: bound by sums of {channels * taps} terms, after which every result is stored"
                + (f"; {100 * moved:.0f} % of the time is not multiplication" if moved else ""))
    if pixels <= FEW_PIXELS:
        return (f"{pixels} pixels in all: each weight is read for few products; "
                "give it more images at once")
    if row.bound == "memory":
        return None
    transformed = phases.get("transform", 0.0)
    if row.algorithm == "winograd" and transformed >= 0.4:
        return f"{100 * transformed:.0f} % of the time in Winograd's transforms: {channels} channels are few"
    copied = phases.get("copy", 0.0)
    if copied >= 0.3:
        return (f"{100 * copied:.0f} % of the time goes to copies of pixels and weights, "
                f"for sums of {channels * taps} terms")
    if problem.direction == "forward" and channels * taps <= SHORT_SUM:
        return f"sums of {channels * taps} terms: a result is stored for every {channels * taps} products"
    return None


def _threads(count):
    return f"{count} thread{'s' if count > 1 else ''}"
