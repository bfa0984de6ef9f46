"""How pages look, by day and by night, on wide and narrow screens, and on paper."""

STYLE = """
:root { color-scheme: light dark; --back: #f7f7f5; --card: #fff; --text: #1d1f21; --soft: #5c6166;
  --line: #dddcd8; --bar: #3b73b9; --bad: #b3261e; --warn: #8a5a00; --code: #f0efec; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181a; --card: #1f2225; --text: #e7e8e9; --soft: #a2a8ae; --line: #363a3e;
    --bar: #7aa9e6; --bad: #ff8a80; --warn: #f0b860; --code: #2a2e32; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
h3 { font-size: .95rem; margin: .8rem 0 .3rem; color: var(--soft); font-weight: 600; }
p { margin: .3rem 0 .6rem; }
header p { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.1rem; margin: 1rem 0; }
.cards { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .6rem .8rem; }
.card b { display: block; font-size: 1.45rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .85rem; line-height: 1.25; display: block; }
.card.bad b { color: var(--bad); }
.card.warn b { color: var(--warn); }
.two { display: grid; gap: .2rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.two.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.two > div { min-width: 0; }
.scroll { overflow-x: auto; max-height: 26rem; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tbody th { font-weight: 400; }
:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; }
.w { overflow-wrap: anywhere; min-width: 7rem; }
.k { white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--card); color: var(--soft);
  font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
  padding-right: 0; padding-left: .7rem; }
.bars th { font-weight: 400; max-width: 14rem; min-width: 4rem; width: 1%; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.bars th, .bars td { border: 0; padding-top: .12rem; padding-bottom: .12rem; }
.bars td.bar { width: auto; min-width: 4rem; vertical-align: middle; }
.bars td.bar div { background: var(--bar); height: .8rem; border-radius: 2px; min-width: 1px; }
.bars td.n { width: 1%; }
pre { background: var(--code); border-radius: 6px; padding: .7rem .9rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; }
code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; }
details { border-top: 1px solid var(--line); padding: .4rem 0; }
details:first-of-type { border-top: 0; }
summary { cursor: pointer; }
summary b { float: right; font-variant-numeric: tabular-nums; }
ul { margin: .3rem 0 .3rem 1.2rem; padding: 0; font-size: .9rem; max-height: 22rem;
  overflow-y: auto; }
li { overflow-wrap: anywhere; }
@media (max-width: 30rem) { main { padding: 1rem .7rem 2rem; } section { padding: .8rem; }
  .cards { grid-template-columns: repeat(2, 1fr); }
  table { font-size: .82rem; } td.n, th.n { padding-left: .4rem; } .bars th { max-width: 8rem; } }
@media print { .scroll, ul { max-height: none; overflow: visible; }
  :root { --back: #fff; --card: #fff; --text: #000; --soft: #444; --line: #ccc; --bar: #1f5fa8; }
  section, .card, figure { break-inside: avoid; } }
"""
