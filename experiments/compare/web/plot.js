// A line chart on a canvas, with axes, a readout by pointer and keyboard, and its values as a table.

const MARGIN = { left: 58, right: 12, top: 10, bottom: 40 };
const FONT = '12px system-ui, sans-serif';

// Returns about `count` round numbers between two ends. A log axis has 1, 2 and 5 of each decade, or only decades.
function findTicks(low, high, log, count) {
  if (log) {
    const ticks = [];
    const decades = Math.log10(high / low);
    const every = Math.max(1, Math.ceil(decades / count));
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high) + 1; decade += every) {
      for (const factor of decades > 3 ? [1] : decades > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8]) {
        const tick = factor * 10 ** decade;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(Number(tick.toPrecision(3)));
      }
    }
    return ticks;
  }
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

// The map of numbers to pixels, linear or logarithmic.
class Scale {
  constructor(low, high, start, end, log) {
    if (!(high > low)) {
      const room = log ? 0 : Math.abs(low) * 0.05 || 1;
      [low, high] = log ? [low / 2, low * 2] : [low - room, high + room];
    }
    Object.assign(this, { low, high, start, end, log });
    this.first = log ? Math.log(low) : low;
    this.factor = (end - start) / ((log ? Math.log(high) : high) - this.first);
  }

  at(value) {
    return this.start + ((this.log ? Math.log(value) : value) - this.first) * this.factor;
  }
}

class Plot {
  // `title` describes the chart to users who cannot see it.
  constructor(title) {
    this.canvas = make('canvas', {
      tabIndex: 0, role: 'img',
      on: {
        pointermove: (event) => this.point(event),
        pointerdown: (event) => this.point(event),
        pointerleave: () => this.mark(null),
        keydown: (event) => this.press(event),
        blur: () => this.mark(null),
      },
    });
    this.readout = make('p', { className: 'readout', role: 'status' });
    this.table = make('div', { className: 'scroll' });
    const values = make('details', { on: { toggle: () => this.list() } }, make('summary', {}, 'Values as a table'), this.table);
    this.values = values;
    this.note = make('p', { className: 'note' });
    this.element = make('div', { className: 'plot' }, this.canvas, this.readout, this.note, values);
    this.setTitle(title);
    this.series = [];
    this.marked = null;
    new ResizeObserver(() => requestAnimationFrame(() => this.resize())).observe(this.element);
  }

  setTitle(title) {
    this.canvas.setAttribute('aria-label', title + '. Arrow keys go through its points. A table of the values follows.');
  }

  // `series` are {name, group, x, y, low, high, faint}; `axes` {xTitle, yTitle, logX, logY, x: [low, high], y: [low, high]}.
  show(series, axes) {
    this.series = series;
    this.axes = axes;
    this.marked = null;
    this.draw();
    this.list();
  }

  resize() {
    if (this.element.clientWidth !== this.width) this.draw();
  }

  measure() {
    const { logX, logY } = this.axes;
    const ends = { x: [Infinity, -Infinity], y: [Infinity, -Infinity] };
    let hidden = 0;
    const widen = (axis, value, log) => {
      if (!Number.isFinite(value)) return;
      if (log && value <= 0) { hidden++; return; }
      if (value < ends[axis][0]) ends[axis][0] = value;
      if (value > ends[axis][1]) ends[axis][1] = value;
    };
    for (const own of this.series) {
      for (let i = 0; i < own.x.length; i++) {
        widen('x', own.x[i], logX);
        widen('y', own.y[i], logY);
        if (own.low) { widen('y', own.low[i], logY); widen('y', own.high[i], logY); }
      }
    }
    this.hidden = hidden;
    for (const axis of ['x', 'y']) if (this.axes[axis]) ends[axis] = this.axes[axis];
    return ends;
  }

  draw() {
    if (!this.axes) return;
    const width = this.element.clientWidth, height = this.axes.height || Math.max(240, Math.min(360, width * 0.6));
    if (!width) return;
    this.width = width;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.style.height = height + 'px';
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext('2d');
    context.scale(ratio, ratio);
    context.font = FONT;
    const { x, y } = this.measure();
    this.empty = !(x[0] <= x[1] && y[0] <= y[1]);
    if (this.empty) {
      context.fillStyle = ink('faded');
      context.textAlign = 'center';
      context.fillText(this.axes.nothing || 'Nothing to draw: no switched-on run has these values.', width / 2, height / 2);
      return;
    }
    const { logX, logY } = this.axes;
    const room = this.axes.y || logY ? 0 : (y[1] - y[0]) * 0.04;
    const side = this.axes.x || logX ? 0 : (x[1] - x[0]) * 0.02;
    this.xScale = new Scale(x[0] - side, x[1] + side, MARGIN.left, width - MARGIN.right, logX);
    this.yScale = new Scale(y[0] - room, y[1] + room, height - MARGIN.bottom, MARGIN.top, logY);
    this.drawAxes(context, width, height);
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top - 2, width - MARGIN.left - MARGIN.right + 2, height - MARGIN.top - MARGIN.bottom + 4);
    context.clip();
    for (const own of this.series) if (own.low) this.drawBand(context, own);
    for (const own of this.series) this.drawLine(context, own);
    context.restore();
    this.drawMark(context, width, height);
  }

  drawAxes(context, width, height) {
    context.strokeStyle = ink('grid');
    context.fillStyle = ink('faded');
    context.lineWidth = 1;
    context.textAlign = 'center';
    context.textBaseline = 'top';
    let last = -Infinity;
    for (const tick of findTicks(this.xScale.low, this.xScale.high, this.xScale.log, Math.max(3, width / 110))) {
      const at = Math.round(this.xScale.at(tick)) + 0.5, half = context.measureText(write(tick)).width / 2;
      line(context, at, MARGIN.top, at, height - MARGIN.bottom);
      if (at - half < last + 8 || at + half > width) continue;
      context.fillText(write(tick), at, height - MARGIN.bottom + 6);
      last = at + half;
    }
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    for (const tick of findTicks(this.yScale.low, this.yScale.high, this.yScale.log, Math.max(3, height / 60))) {
      const at = Math.round(this.yScale.at(tick)) + 0.5;
      line(context, MARGIN.left, at, width - MARGIN.right, at);
      context.fillText(write(tick, 4), MARGIN.left - 6, at);
    }
    context.textAlign = 'center';
    context.textBaseline = 'bottom';
    context.fillText(this.axes.xTitle, (MARGIN.left + width - MARGIN.right) / 2, height - 3);
  }

  drawLine(context, own) {
    context.strokeStyle = colourOf(own.group);
    context.globalAlpha = (own.faint ? 0.3 : 1) * this.fade(own);
    context.lineWidth = own.faint ? 1 : this.marked && this.marked.own === own ? 3 : 1.8;
    context.setLineDash(own.faint ? [] : dashOf(own.group));
    context.beginPath();
    let pen = false, drawn = 0;
    for (let i = 0; i < own.x.length; i++) {
      const at = this.xScale.at(own.x[i]), up = this.yScale.at(own.y[i]);
      if (!Number.isFinite(at) || !Number.isFinite(up)) { pen = false; continue; }
      if (pen) context.lineTo(at, up); else context.moveTo(at, up);
      pen = true;
      drawn++;
    }
    context.stroke();
    context.setLineDash([]);
    if (!own.faint && drawn <= 30) {
      context.fillStyle = colourOf(own.group);
      for (let i = 0; i < own.x.length; i++) dot(context, this.xScale.at(own.x[i]), this.yScale.at(own.y[i]), 2.5);
    }
    context.globalAlpha = 1;
  }

  // While a point is marked, the other lines are faint.
  fade(own) {
    return this.marked && this.marked.own !== own && this.series.length > 2 ? 0.25 : 1;
  }

  drawBand(context, own) {
    const bottom = this.yScale.log ? this.yScale.low : -Infinity;
    context.fillStyle = colourOf(own.group);
    context.globalAlpha = 0.18 * this.fade(own);
    context.beginPath();
    for (let i = 0; i < own.x.length; i++) context.lineTo(this.xScale.at(own.x[i]), this.yScale.at(Math.max(own.high[i], bottom)));
    for (let i = own.x.length - 1; i >= 0; i--) context.lineTo(this.xScale.at(own.x[i]), this.yScale.at(Math.max(own.low[i], bottom)));
    context.fill();
    context.globalAlpha = 1;
  }

  drawMark(context, width, height) {
    if (!this.marked) return;
    const { own, i } = this.marked, at = this.xScale.at(own.x[i]), up = this.yScale.at(own.y[i]);
    context.strokeStyle = ink('faded');
    line(context, at, MARGIN.top, at, height - MARGIN.bottom);
    context.fillStyle = colourOf(own.group);
    dot(context, at, up, 5);
    context.strokeStyle = ink('text');
    context.stroke();
  }

  mark(marked) {
    this.marked = marked;
    this.readout.textContent = marked ? this.describe(marked.own, marked.i) : '';
    this.draw();
  }

  describe(own, i) {
    const spread = own.low ? ` (${this.axes.band}: ${write(own.low[i])} to ${write(own.high[i])})` : '';
    return `${own.name}: ${this.axes.xTitle} ${write(own.x[i])}, ${this.axes.yTitle} ${write(own.y[i])}${spread}`;
  }

  // Returns the series that a reader can select, without faint ones.
  readable() {
    return this.series.filter((own) => !own.faint && own.x.length);
  }

  point(event) {
    if (this.empty || !this.xScale) return;
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, nearest = Infinity;
    for (const own of this.readable()) {
      for (let i = 0; i < own.x.length; i++) {
        const distance = Math.hypot(this.xScale.at(own.x[i]) - x, this.yScale.at(own.y[i]) - y);
        if (distance < nearest) [best, nearest] = [{ own, i }, distance];
      }
    }
    if (best && !(this.marked && this.marked.own === best.own && this.marked.i === best.i)) this.mark(best);
  }

  press(event) {
    const every = this.readable();
    if (this.empty || !every.length) return;
    const marked = this.marked || { own: every[0], i: every[0].x.length - 1 };
    const last = marked.own.x.length - 1;
    let { own, i } = marked;
    if (event.key === 'ArrowLeft') i = Math.max(0, i - 1);
    else if (event.key === 'ArrowRight') i = Math.min(last, i + 1);
    else if (event.key === 'Home') i = 0;
    else if (event.key === 'End') i = last;
    else if (event.key === 'ArrowUp' || event.key === 'ArrowDown') {
      const place = every.indexOf(own) + (event.key === 'ArrowDown' ? 1 : -1), at = own.x[i];
      own = every[(place + every.length) % every.length];
      i = nearestTo(own.x, at);
    } else if (event.key === 'Escape') { this.mark(null); return; } else return;
    event.preventDefault();
    this.mark({ own, i });
  }

  list() {
    if (!this.values.open || !this.axes) return;
    const columns = ['', 'points', 'first', 'last', 'minimum', 'maximum'].map((title) => ({ title }));
    const rows = this.readable().map((own) => {
      const y = Array.from(own.y).filter(Number.isFinite);
      const numbers = [y[0], y[y.length - 1], y.reduce((a, b) => Math.min(a, b), Infinity), y.reduce((a, b) => Math.max(a, b), -Infinity)];
      return [[own.name, own.name], [String(y.length), y.length], ...numbers.map((value) => [write(value), value])];
    });
    fill(this.table, makeTable(columns, rows, this.axes.yTitle));
  }
}

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

function dot(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function nearestTo(values, wanted) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (Math.abs(values[i] - wanted) < Math.abs(values[best] - wanted)) best = i;
  return best;
}
