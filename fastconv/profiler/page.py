"""The profile as one HTML page that needs nothing else: no network, no other file."""

from html import escape

from . import document, drawing
from .terminal import SHORT, label, milliseconds, percent, phases_of

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5a6675; --paper: #fff; --card: #f3f5f8; --line:
  #d8dde4;
  --a: #2563c9; --b: #c2570c; --c: #6b7785; --d: #15803d; --e: #9333c7; --f: #a16207; --g: #0e7490; --h:
  #be123c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #a3adba; --paper: #14181d; --card:
  #1f252c;
  --line: #3a434e; --a: #6ea0f5; --b: #f08c4a; --c: #98a4b3; --d: #4ade80; --e: #c98bf0; --f: #e0b040;
  --g: #4cc3d9;
  --h: #fb7a94; } }
* { box-sizing: border-box; } figure { margin: 0; }
body { margin: 0 auto; max-width: 1180px; padding: 16px; color: var(--ink); background: var(--paper);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 4px; } h2 { font-size: 1.1rem; margin: 28px 0 4px; overflow-wrap:
  anywhere; }
h3 { font-size: .95rem; margin: 22px 0 6px; } p { margin: 4px 0; } .soft { color: var(--soft); font-size:
  .87rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: 8px; margin:
  12px 0; }
.card { background: var(--card); border-radius: 8px; padding: 8px 12px; } .card b { display: block;
  font-size: 1.15rem; }
.card span { color: var(--soft); font-size: .8rem; }
ul.advice { margin: 0; padding-left: 18px; } ul.advice li { margin: 3px 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; } svg.bars { background: var(--card); border-radius: 4px; }
svg.bars rect { stroke: var(--paper); stroke-width: 1; vector-effect: non-scaling-stroke; }
svg text { fill: var(--soft); font-size: 11px; } svg .name { fill: var(--ink); } .grid { stroke:
  var(--line); }
.roof { fill: none; stroke: var(--ink); stroke-width: 1.5; } .mark { fill-opacity: .55; stroke-width: 1; }
.m0, .f0 { fill: var(--a); } .m1, .f1 { fill: var(--b); } .m2, .f7 { fill: var(--c); } .f2 { fill:
  var(--d); }
.f3 { fill: var(--e); } .f4 { fill: var(--g); } .f5 { fill: var(--f); } .f6 { fill: var(--h); }
.wide { display: block; } .narrow { display: none; } .ends { display: flex; justify-content:
  space-between; }
.key { display: inline-flex; align-items: center; margin-right: 12px; } .key svg { width: 11px;
  margin-right: 5px; }
.tip { min-height: 2.9em; } .scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; } th { background: var(--card); }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid
  var(--a); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.text { text-align: left; } td:first-child, th:first-child { position: sticky; left: 0; background:
  var(--paper);
  max-width: 240px; overflow: hidden; text-overflow: ellipsis; } th:first-child { background: var(--card); }
.bar { display: inline-block; width: 44px; height: 8px; margin-left: 6px; border-radius: 2px; background:
  var(--line); }
.bar i { display: block; height: 8px; border-radius: 2px; background: var(--a); }
@media (max-width: 640px) { body { padding: 12px; } .wide, th.more, td.more { display: none; }
  .narrow { display: block; } td:first-child, th:first-child { max-width: 118px; } .bar { display: none; } }
"""

_SCRIPT = """
for (const table of document.querySelectorAll('table'))
  table.querySelectorAll('th button').forEach((button, column) => button.addEventListener('click', () => {
    const head = button.parentElement, body = table.tBodies[0], rows = [...body.rows];
    const text = head.classList.contains('text');
    const up = head.hasAttribute('aria-sort') ? head.getAttribute('aria-sort') == 'descending' : text;
    table.querySelectorAll('th').forEach(th => th.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const value = row => row.cells[column].dataset.value;
    rows.sort((a, b) => (text ? value(a).localeCompare(value(b), undefined, {numeric: true})
                              : value(a) - value(b)) * (up ? 1 : -1));
    body.append(...rows);
  }));
for (const section of document.querySelectorAll('section'))
  for (const event of ['click', 'mouseover'])
    section.addEventListener(event, e => {
      const figure = e.target.closest('figure');
      if (e.target.dataset.tip && figure) figure.querySelector('.tip').textContent = e.target.dataset.tip;
    });
"""


def html(profiles, path=None):
    """The page of some profiles, returned and, where `path` is given, written there."""
    facts = document.machine()
    title = "fastconv profile" if len(profiles) > 1 or not profiles[0].title else profiles[0].title
    text = (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
            f"</head><body><h1>fastconv profile</h1><p class=soft>{escape(facts['cpu'])}, {facts['isa']}, "
            f"fastconv {facts['version']}</p>{''.join(map(_section, profiles))}<script>{_SCRIPT}</script>"
            "</body></html>\n")
    return document.written(text, path)


def _section(profile):
    threads = profile.peaks.threads
    heading = f"{profile.title or 'Calls'}, {threads} thread{'s' if threads > 1 else ''}"
    note = f"<p class=soft>{escape(profile.counters_note)}</p>" if profile.counters_note else ""
    parts = [f"<section><h2>{escape(heading)}</h2>", _cards(profile), _advice(profile), note]
    if profile.records:
        parts += [_roofline(profile), _timeline(profile), _table(profile)]
    return "".join([*parts, "</section>"])


def _cards(profile):
    kernels, peaks = profile.kernel_seconds, profile.peaks
    flops = sum(record.flops for record in profile.records)
    cards = []
    if profile.laps:
        outside = max(0.0, 1 - kernels / sum(profile.laps))
        cards += [(f"{milliseconds(min(profile.laps))} ms", f"best of {len(profile.laps)} turns"),
                  (percent(outside), "of the time outside kernels")]
    cards += [(f"{1e-9 * flops / kernels:.0f} GFLOP/s" if kernels else "-", "all kernels together"),
              (f"{1e-9 * peaks.flops:.0f} GFLOP/s", "multiply-adds at most, measured"),
              (f"{1e-9 * peaks.bandwidth:.1f} GB/s", "copied at most, measured")]
    return '<div class="cards">' + "".join(f'<div class="card"><b>{value}</b><span>{name}</span></div>'
                                           for value, name in cards) + "</div>"


def _advice(profile):
    rows = sorted((row for row in profile.rows if row.advice), key=lambda row: -row.total)
    if not rows:
        return ""
    items = "".join(f"<li><b>{escape(row.name)}</b> ({escape(SHORT.get(row.op, row.op))}, "
                    f"{percent(row.share)}): {escape(row.advice)}</li>" for row in rows[:8])
    return f'<h3>Far from the roof</h3><ul class="advice">{items}</ul>'


def _key(classes, name):
    return (f'<span class="key"><svg viewBox="0 0 10 10"><circle class="{classes}" cx="5" cy="5" r="5"/>'
            f"</svg>{name}</span>")


def _roofline(profile):
    kinds = dict.fromkeys(drawing.kind(row) for row in drawing.plotted(profile.rows))
    keys = "".join(_key(f"m{drawing.MARKS[name]}", name) for name in drawing.MARKS if name in kinds)
    wide, narrow = drawing.roofline(profile, 900, 420), drawing.roofline(profile, 360, 330)
    return (f'<h3>Roofline</h3><figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
            f"<p class=soft>{keys}Areas are shares of the time; operations are those of the direct sum, so "
            "that Winograd's algorithm can be above the roof.</p>"
            '<p class="soft tip">Point at a mark, or touch it, for its name.</p></figure>')


def _timeline(profile):
    bars, seconds, families = drawing.timeline(profile)
    keys = "".join(_key(f"f{number}", name) for number, name in families)
    return (f'<h3>Timeline of the last turn</h3><figure>{bars}<div class="ends soft"><span>0 ms</span>'
            f"<span>{milliseconds(seconds)} ms</span></div><p class=soft>{keys}</p>"
            '<p class="soft tip">Point at a bar, or touch it, for its name and time.</p></figure>')


def _table(profile):
    rows = profile.rows
    columns = [  # head, class, value to sort by, text
        ("layer", "text", label, None),
        ("best ms", "", lambda row: row.best, lambda row: milliseconds(row.best)),
        ("share", "", lambda row: row.share, lambda row: percent(row.share)),
        ("of roof", "", lambda row: row.of_roof, lambda row: percent(row.of_roof)),
        ("GFLOP/s", "", lambda row: row.flops_per_second, lambda row: f"{1e-9 * row.flops_per_second:.0f}"),
    ]
    for key in ("alternatives", "peers"):
        for name in dict.fromkeys(name for row in rows for name in getattr(row, key)):
            columns.append((f"{name} ms", "", lambda row, key=key, name=name: getattr(row, key).get(name, 0),
                            lambda row, key=key, name=name: _time(getattr(row, key).get(name))))
    if any(row.naive for row in rows):
        columns.append(("naive ms", "", lambda row: row.naive or 0, lambda row: _time(row.naive)))
    columns += [
        ("kernel", "text", lambda row: SHORT.get(row.op, row.op), None),
        ("algorithm", "text", lambda row: row.algorithm, None),
        ("median", "more", lambda row: row.median, lambda row: milliseconds(row.median)),
        ("GB/s", "more", lambda row: row.bytes_per_second, lambda row: f"{1e-9 * row.bytes_per_second:.1f}"),
        ("FLOP/B", "more", lambda row: row.intensity, lambda row: f"{row.intensity:.1f}"),
    ]
    if any(row.phases for row in rows):
        columns.append(("phases", "text more", phases_of, None))
    for name in dict.fromkeys(name for row in rows for name in row.counters):
        columns.append((name.replace("_", " "), "more", lambda row, name=name: row.counters.get(name, 0),
                        lambda row, name=name: f"{row.counters.get(name, 0):,.0f}"))
    columns += [("calls", "more", lambda row: row.calls, None),
                ("shapes", "text more", lambda row: f"{row.shapes} {row.layout}", None)]
    head = "".join(f'<th class="{kind}"><button>{escape(name)}</button></th>' for name, kind, _, _ in columns)
    lines = "".join(f"<tr>{''.join(_cell(row, *column) for column in columns)}</tr>" for row in rows)
    return (f'<h3>Layers</h3><p class=soft>A tap on a column sorts by it.</p><div class="scroll"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>")


def _time(seconds):
    return "-" if seconds is None else milliseconds(seconds)


def _cell(row, name, kind, value, text):
    shown = escape(str((text or value)(row)))
    if name == "share":
        shown += f'<span class="bar"><i style="width:{100 * row.share:.1f}%"></i></span>'
    tip = f' title="{shown}"' if name in ("layer", "shapes") else ""
    return f'<td class="{kind}" data-value="{escape(str(value(row)))}"{tip}>{shown}</td>'
