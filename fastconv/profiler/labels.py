"""Where names go in a picture so that none lies over another, over a mark or over a line."""


def place(marks, bounds, taken, most, size):
    """[(name, left, baseline)] of at most `most` of the marks, the first ones first, where there is room.

    marks: (name, x, y, radius); bounds and taken: boxes (left, top, right, bottom); y grows downwards. size:
    (width of a letter, height of a line). A name goes to the right of its mark, else left, above or below.
    """
    letter, line = size
    boxes = [(x - r, y - r, x + r, y + r) for _, x, y, r in marks]
    found = []
    for number, (name, x, y, radius) in enumerate(marks):
        if len(found) == most:
            break
        width, away = letter * len(name), radius + 3
        for left, base in ((x + away, y + line / 3), (x - away - width, y + line / 3),
                           (x - width / 2, y - away), (x - width / 2, y + away + line)):
            box = left, base - line, left + width, base + line / 4
            others = (*taken, *boxes[:number], *boxes[number + 1:])
            if (box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
                    and not any(_meet(box, other) for other in others)):
                taken = [*taken, box]
                found.append((name, left, base))
                break
    return found


def _meet(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def short(name, most=24):
    """The name, or the end of a long one."""
    return name if len(name) <= most else ".." + name[2 - most:]
