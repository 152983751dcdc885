// Precision-recall curves at IoU 0.5, of one class or of the mean over classes.

function startRecall() {
  const section = document.getElementById('recall'), kinds = Object.keys(data.recall);
  if (!kinds.length) { section.remove(); return; }
  let kind = kinds[0], chosen = 'mean';
  const plot = new Plot('Precision against recall'), choice = make('span');
  const draw = () => {
    const { classes, runs } = data.recall[kind], row = chosen === 'mean' ? classes.length : Number(chosen);
    const series = [];
    data.groups.forEach((group, index) => {
      const own = runs[group.shown];
      if (!own || !isVisible(group.shown)) return;
      if (typeof own.curves === 'string') own.curves = decode(own.curves, Float32Array);
      const length = own.curves.length / (classes.length + 1), y = own.curves.slice(row * length, (row + 1) * length);
      if (Number.isNaN(y[0])) return;
      const score = own.scores[row];
      series.push({ name: `${group.name} (AP50 ${write(score, 3)})`, group: index, x: Float64Array.from(y, (_, i) => i / (length - 1)), y });
    });
    plot.setTitle(`Precision against recall, ${chosen === 'mean' ? 'mean over classes' : classes[row]}`);
    plot.show(series, { xTitle: 'recall', yTitle: 'precision', x: [0, 1], y: [0, 1] });
    plot.note.textContent = 'At IoU 0.5, from the newest evaluation of each method\'s best run.';
  };
  const choose = () => fill(choice, makeSelect('Class',
    [['mean', 'mean over classes'], ...data.recall[kind].classes.map((name, i) => [String(i), name])], 'mean', (own) => { chosen = own; draw(); }));
  section.append(make('div', { className: 'controls' },
    makeSelect('Objects', kinds.map((own) => [own, own]), kind, (own) => { kind = own; chosen = 'mean'; choose(); draw(); }), choice), plot.element);
  choose();
  draw();
  listeners.push(draw);
}
