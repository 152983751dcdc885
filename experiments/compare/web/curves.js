// Curves of runs against steps, images or hours, with bands over seeds and with smoothing.

const AXES = [['steps', 'step'], ['images', 'images'], ['hours', 'hours']];
const BANDS = [['interval', 'mean and 95 % interval'], ['range', 'mean and minimum to maximum'], ['none', 'separate runs']];
const MOST_FAINT = 12; // with more series, the values before smoothing are not drawn

const curveState = {
  axis: 'steps', smoothing: 0, logX: false, logY: false,
  band: data.groups.some((group) => group.runs.length > 1) ? 'interval' : 'none',
};
const curveCharts = [];

// Returns the curve of a run, {steps, values}, and for a thinned one {middles, means} of its buckets. Decodes it once.
function readCurve(name, number) {
  const own = data.curves[name][number];
  if (!own) return null;
  if (Array.isArray(own)) {
    const [steps, values, middles, means] = own;
    data.curves[name][number] = {
      steps: decode(steps, Uint32Array), values: decode(values, Float32Array),
      middles: middles && decode(middles, Float32Array), means: means && decode(means, Float32Array),
    };
  }
  return data.curves[name][number];
}

// Returns steps as images or hours, or null if the rate of the run is unknown.
function place(number, steps) {
  const run = data.runs[number];
  if (curveState.axis === 'steps') return steps;
  if (curveState.axis === 'images') return run.batch ? Float64Array.from(steps, (step) => step * run.batch) : null;
  if (!run.hours) return null;
  if (typeof run.hours[0] === 'string') run.hours = [decode(run.hours[0], Uint32Array), decode(run.hours[1], Float32Array)];
  const [knots, hours] = run.hours;
  let k = 0;
  return Float64Array.from(steps, (step) => {
    while (k < knots.length - 2 && knots[k + 1] < step) k++;
    const part = knots[k + 1] > knots[k] ? (step - knots[k]) / (knots[k + 1] - knots[k]) : 1;
    return hours[k] + Math.max(0, Math.min(1, part)) * (hours[k + 1] - hours[k]);
  });
}

// Returns the exponential moving average of the values, without a bias at its start.
function smooth(values, weight) {
  if (!weight) return values;
  let sum = 0, total = 0;
  return Float64Array.from(values, (value) => {
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// Returns the mean over runs at their common steps, each run smoothed first, and the ends of the band.
function fold(curves, numbers, band, smoothing) {
  const parts = curves.map((curve) => [curve.middles || curve.steps, curve.means || curve.values]);
  const counts = new Map();
  for (const [steps] of parts) for (const step of steps) counts.set(step, (counts.get(step) || 0) + 1);
  const steps = Float64Array.from([...counts.keys()].filter((step) => counts.get(step) === parts.length).sort((a, b) => a - b));
  const columns = parts.map(([own, values]) => {
    const at = new Map(Array.from(own, (step, i) => [step, values[i]]));
    return smooth(steps.map((step) => at.get(step)), smoothing);
  });
  const places = numbers.map((number) => place(number, steps)).filter(Boolean);
  const count = columns.length, y = new Float64Array(steps.length), low = y.slice(), high = y.slice();
  for (let i = 0; i < steps.length; i++) {
    const own = columns.map((column) => column[i]);
    const mean = own.reduce((a, b) => a + b, 0) / count;
    const deviation = Math.sqrt(own.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (count - 1));
    const half = data.halves[count - 2] * deviation;
    y[i] = mean;
    [low[i], high[i]] = band === 'range' ? [Math.min(...own), Math.max(...own)] : [mean - half, mean + half];
  }
  const x = steps.map((_, i) => places.reduce((sum, own) => sum + own[i], 0) / places.length);
  return { x: places.length ? x : null, y, low, high };
}

class CurveChart {
  constructor(name, remove) {
    this.name = name;
    this.plot = new Plot(name);
    const choice = makeSelect('Metric', Object.keys(data.curves).map((own) => [own, own]), name, (own) => { this.name = own; this.draw(); });
    const buttons = remove ? [make('button', { type: 'button', on: { click: () => remove(this) } }, 'Remove chart')] : [];
    this.element = make('div', { className: 'chart' }, make('div', { className: 'controls' }, choice, ...buttons), this.plot.element);
  }

  draw() {
    const series = [], missing = [], { axis, band, smoothing, logX, logY } = curveState;
    const own = data.curves[this.name];
    let thinned = false;
    data.groups.forEach((group, index) => {
      const numbers = group.runs.filter((number) => isVisible(number) && own[number]);
      const curves = numbers.map((number) => readCurve(this.name, number));
      thinned = thinned || curves.some((curve) => curve.means);
      if (band !== 'none' && numbers.length > 1) {
        const { x, y, low, high } = fold(curves, numbers, band, smoothing);
        if (!x) { missing.push(...numbers); return; }
        series.push({ name: `${group.name} (${numbers.length} seeds)`, group: index, x, y, low, high });
        return;
      }
      curves.forEach((curve, k) => {
        const number = numbers[k], x = place(number, curve.steps);
        if (!x) { missing.push(number); return; }
        const raw = { name: data.runs[number].name, group: index, x, y: curve.values };
        if (!smoothing) { series.push(raw); return; }
        series.push({ ...raw, faint: true });
        const middles = curve.means ? place(number, curve.middles) : x;
        series.push({ ...raw, x: middles, y: smooth(curve.means || curve.values, smoothing) });
      });
    });
    const drawn = series.filter((one) => !one.faint).length > MOST_FAINT ? series.filter((one) => !one.faint) : series;
    this.plot.setTitle(`${this.name} against ${axis}`);
    this.plot.show(drawn, {
      xTitle: AXES.find(([key]) => key === axis)[1], yTitle: this.name, logX, logY,
      band: band === 'range' ? 'minimum to maximum' : '95 % interval',
    });
    this.plot.note.textContent = [
      missing.length ? `${count(missing.length, 'run')} without ${axis === 'hours' ? 'a rate, so without hours' : 'a batch size'}.` : '',
      this.plot.hidden ? 'A log axis hides values of 0 or less.' : '',
      thinned ? 'Curves with more than 500 points show the minimum and maximum of neighbouring points; smoothing and bands use their means.' : '',
    ].filter(Boolean).join(' ');
  }
}

function startCurves() {
  const section = document.getElementById('curves'), names = Object.keys(data.curves);
  if (!names.length) { section.append(make('p', { className: 'note' }, 'No run has rows yet.')); return; }
  const charts = make('div', { className: 'charts' });
  const drawAll = () => { for (const chart of curveCharts) chart.draw(); };
  const set = (key) => (value) => { curveState[key] = value; drawAll(); explain(); };
  const add = (name, first) => {
    const chart = new CurveChart(name, first ? null : (own) => {
      curveCharts.splice(curveCharts.indexOf(own), 1);
      own.element.remove();
      adder.focus();
    });
    curveCharts.push(chart);
    charts.append(chart.element);
    chart.draw();
    return chart;
  };
  const output = make('output', {}, '0');
  const slider = make('input', {
    type: 'range', min: 0, max: 0.99, step: 0.01, value: 0,
    on: { input: () => { output.textContent = slider.value; set('smoothing')(Number(slider.value)); } },
  });
  const adder = make('button', { type: 'button', on: { click: () => {
    const shown = curveCharts.map((chart) => chart.name);
    add(names.find((name) => !shown.includes(name)) || names[0]).element.querySelector('select').focus();
  } } }, 'Add a chart');
  const note = make('p', { className: 'note' });
  const explain = () => {
    note.textContent = {
      steps: '', images: 'Images are steps times train.batch_size.',
      hours: 'Hours of training and evaluation, from time/images_per_second and time/evaluation of the rows, without compilation and pauses.',
    }[curveState.axis] + (curveState.band === 'none' ? '' : ' The curve of a method with several seeds ends with its shortest run.');
  };
  section.append(make('div', { className: 'controls' },
    makeSelect('Against', AXES.map(([key]) => [key, key]), 'steps', set('axis')),
    makeSelect('Seeds', BANDS, curveState.band, set('band')),
    make('label', {}, 'Smoothing ', slider, ' ', output),
    makeCheck('log x', false, set('logX')), makeCheck('log y', false, set('logY')), adder), note, charts);
  const first = names.includes(data.metric) ? data.metric : names[0];
  add(first, true);
  if (names.includes('train/loss') && first !== 'train/loss') add('train/loss');
  explain();
  listeners.push(drawAll);
}
