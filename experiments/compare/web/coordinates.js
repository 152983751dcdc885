// Parallel coordinates. The line of a run goes through the fields in which the runs differ to its best score.

const MOST_AXES = 8; // axes that are switched on at first
const LOG_SPAN = 50; // an axis is logarithmic if its largest value is this many times its smallest

class Axis {
  // `texts` are the values of a field by run as text, null for a run without the field.
  constructor(title, texts) {
    this.title = title;
    const present = texts.filter((text) => text !== null), numbers = present.map(Number);
    this.numeric = present.length > 0 && present.every((text, i) => text.trim() !== '' && Number.isFinite(numbers[i]));
    this.values = texts.map((text) => (text === null ? null : this.numeric ? Number(text) : text));
    this.choices = this.numeric ? [] : [...new Set(present)].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
    this.low = Math.min(...numbers);
    this.high = Math.max(...numbers);
    this.log = this.numeric && this.low > 0 && this.high / this.low >= LOG_SPAN;
    this.brush = null;
  }

  setRange(bottom, top) {
    this.scale = this.numeric ? new Scale(this.low, this.high, bottom, top, this.log)
      : new Scale(-0.5, this.choices.length - 0.5, bottom, top, false);
  }

  at(number) {
    const value = this.values[number];
    return value === null ? null : this.scale.at(this.numeric ? value : this.choices.indexOf(value));
  }

  ticks() {
    if (!this.numeric) return this.choices.map((text, i) => [text, this.scale.at(i)]);
    const distinct = [...new Set(this.values.filter((value) => value !== null))].sort((a, b) => a - b);
    const ticks = distinct.length <= 6 ? distinct : findTicks(this.scale.low, this.scale.high, this.log, 5);
    return ticks.map((tick) => [write(tick, 4), this.scale.at(tick)]);
  }
}

function listAxes() {
  const { all, varied } = data.fields;
  const axes = varied.map((index) => {
    const field = all[index];
    return new Axis(field.name, data.runs.map((_, number) => {
      const own = field.groups[groupOf[number]];
      return own < 0 ? null : field.texts[own];
    }));
  });
  const score = new Axis('best ' + data.metric, data.runs.map((run) => (run.best === null ? null : String(run.best))));
  return [axes, score];
}

class Coordinates {
  constructor(axes, score) {
    this.axes = axes.slice(0, MOST_AXES);
    this.score = score;
    this.marked = null;
    this.canvas = make('canvas', {
      tabIndex: 0, role: 'img',
      'aria-label': 'Parallel coordinates of the runs. The up and down keys go through them, best first. The summary and config tables have the same values.',
      on: {
        pointermove: (event) => this.move(event), pointerdown: (event) => this.start(event),
        pointerup: () => { this.drag = null; }, pointerleave: () => this.mark(null), keydown: (event) => this.press(event),
        blur: () => this.mark(null),
      },
    });
    this.readout = make('p', { className: 'readout', role: 'status' });
    this.scroll = make('div', { className: 'scroll' }, this.canvas);
    this.element = make('div', { className: 'plot' }, this.scroll, this.readout);
    new ResizeObserver(() => requestAnimationFrame(() => { if (this.element.clientWidth !== this.width) this.draw(); })).observe(this.element);
  }

  every() {
    return [...this.axes, this.score];
  }

  // Returns the runs that are switched on and inside every brush, best first.
  listRuns() {
    const kept = data.runs.map((_, number) => number).filter((number) => isVisible(number) && this.every().every((axis) => {
      if (!axis.brush) return true;
      const at = axis.at(number);
      return at !== null && at >= axis.brush[0] && at <= axis.brush[1];
    }));
    const sign = data.smaller ? 1 : -1, value = (number) => data.runs[number].best;
    return kept.filter((number) => value(number) !== null).sort((a, b) => sign * (value(a) - value(b)));
  }

  draw() {
    const axes = this.every(), height = 360, width = Math.max(this.element.clientWidth, 110 * axes.length);
    this.width = this.element.clientWidth;
    if (!this.width) return;
    const ratio = window.devicePixelRatio || 1;
    Object.assign(this.canvas.style, { width: width + 'px', height: height + 'px' });
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext('2d');
    context.scale(ratio, ratio);
    context.font = FONT;
    axes.forEach((axis, index) => {
      axis.x = 60 + (index * (width - 130)) / Math.max(1, axes.length - 1);
      axis.setRange(height - 22, 44);
    });
    const runs = this.listRuns();
    context.lineWidth = 1.4;
    for (const number of [...runs].reverse()) {
      context.globalAlpha = this.marked === null ? 0.8 : 0.15;
      context.strokeStyle = this.colour(number);
      this.trace(context, number);
    }
    context.globalAlpha = 1;
    if (this.marked !== null) {
      context.lineWidth = 4;
      context.strokeStyle = this.colour(this.marked);
      this.trace(context, this.marked);
    }
    axes.forEach((axis, index) => this.drawAxis(context, axis, index, height));
  }

  // Orange for the worst score to blue for the best one, which all kinds of colour vision can distinguish.
  colour(number) {
    const { low, high } = this.score, part = high > low ? (data.runs[number].best - low) / (high - low) : 1;
    const share = data.smaller ? 1 - part : part, [blue, orange] = data.colours[isDark() ? 'dark' : 'light'];
    const mix = [1, 3, 5].map((at) => Math.round(share * parseInt(blue.slice(at, at + 2), 16) + (1 - share) * parseInt(orange.slice(at, at + 2), 16)));
    return `rgb(${mix.join(' ')})`;
  }

  trace(context, number) {
    context.beginPath();
    let pen = false;
    for (const axis of this.every()) {
      const at = axis.at(number);
      if (at === null) { pen = false; continue; }
      if (pen) context.lineTo(axis.x, at); else context.moveTo(axis.x, at);
      pen = true;
    }
    context.stroke();
  }

  drawAxis(context, axis, index, height) {
    context.strokeStyle = ink('text');
    context.lineWidth = 1;
    line(context, axis.x, 40, axis.x, height - 18);
    if (axis.brush) {
      context.fillStyle = ink('brush');
      context.fillRect(axis.x - 8, axis.brush[0], 16, axis.brush[1] - axis.brush[0]);
    }
    context.textBaseline = 'middle';
    context.textAlign = 'left';
    let last = Infinity;
    for (const [text, at] of axis.ticks()) {
      if (last - at < 13 && last !== Infinity) continue;
      last = at;
      const short = cut(context, text, 76);
      context.fillStyle = ink('veil');
      context.fillRect(axis.x + 5, at - 7, context.measureText(short).width + 4, 14);
      context.fillStyle = ink('text');
      context.fillText(short, axis.x + 7, at);
    }
    context.textAlign = 'center';
    context.fillStyle = ink('text');
    const title = cut(context, shorten(axis.title), 104);
    context.fillText(title, axis.x, index % 2 && this.every().length > 6 ? 10 : 26);
  }

  near(event) {
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const axes = this.every(), axis = axes.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
    return { x, y, axis };
  }

  start(event) {
    const { x, y, axis } = this.near(event);
    if (Math.abs(axis.x - x) > 14) return;
    this.drag = { axis, from: y };
    axis.brush = null;
    this.draw();
  }

  move(event) {
    const { x, y } = this.near(event);
    if (this.drag) {
      const span = [this.drag.from, y].sort((a, b) => a - b);
      this.drag.axis.brush = span[1] - span[0] > 3 ? span : null;
      this.draw();
      this.readout.textContent = `${count(this.listRuns().length, 'run')} inside`;
      return;
    }
    const axes = this.every(), right = axes.findIndex((axis) => axis.x >= x);
    if (right < 1) return;
    const [a, b] = [axes[right - 1], axes[right]], part = (x - a.x) / (b.x - a.x);
    let best = null, nearest = 12;
    for (const number of this.listRuns()) {
      const [from, to] = [a.at(number), b.at(number)];
      if (from === null || to === null) continue;
      const distance = Math.abs(from + part * (to - from) - y);
      if (distance < nearest) [best, nearest] = [number, distance];
    }
    if (best !== this.marked) this.mark(best);
  }

  press(event) {
    const runs = this.listRuns();
    if (!['ArrowUp', 'ArrowDown', 'Escape'].includes(event.key) || !runs.length) return;
    event.preventDefault();
    if (event.key === 'Escape') { this.clear(); return; }
    const at = runs.indexOf(this.marked);
    this.mark(runs[at < 0 ? 0 : Math.max(0, Math.min(runs.length - 1, at + (event.key === 'ArrowDown' ? 1 : -1)))]);
  }

  clear() {
    for (const axis of this.every()) axis.brush = null;
    this.mark(null);
  }

  mark(number) {
    this.marked = number;
    this.readout.textContent = number === null ? '' : data.runs[number].name + ': ' + this.every().map((axis) => {
      const value = axis.values[number];
      return `${shorten(axis.title)} ${value === null ? '-' : typeof value === 'number' ? write(value) : value}`;
    }).join(', ');
    this.draw();
  }
}

function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && context.measureText(text.slice(0, length) + '…').width > width) length--;
  return text.slice(0, length) + '…';
}

function shorten(name) {
  return name.startsWith('best ') ? name : name.split('.').slice(-2).join('.');
}

function startCoordinates() {
  const section = document.getElementById('coordinates');
  if (data.runs.length === 1) return section.remove();
  const [axes, score] = listAxes();
  if (!axes.length || data.groups.length < 2 || !score.numeric) {
    section.append(make('p', { className: 'note' }, 'Nothing to show: the runs have equal fields or no score yet.'));
    return;
  }
  const chart = new Coordinates(axes, score);
  const choose = () => { chart.axes = axes.filter((axis) => axis.on); chart.clear(); };
  const checks = axes.map((axis, index) => {
    axis.on = index < MOST_AXES;
    return makeCheck(axis.title, axis.on, (on) => { axis.on = on; choose(); });
  });
  section.append(
    make('p', { className: 'note' }, 'Lines go from orange (worst score) to blue (best score). Drag along an axis to keep only the runs inside.'),
    make('div', { className: 'controls' }, make('button', { type: 'button', on: { click: () => chart.clear() } }, 'Clear'),
      make('details', {}, make('summary', {}, `Axes: ${count(axes.length, 'field')} and the score`), make('div', { className: 'controls' }, ...checks))),
    chart.element);
  chart.draw();
  listeners.push(() => chart.draw());
}
