// Draws the page. The attribute data-ready of the root then has the milliseconds since its request.

startTheme();
const subject = data.runs.length === 1 ? `Run ${data.runs[0].name}` : `Comparison of ${count(data.runs.length, 'run')} by ${data.metric}`;
document.title = document.getElementById('title').textContent = subject;
document.getElementById('written').textContent = `Written ${data.written}. To update it while runs go on, write it again and reload.`;
for (const start of [startRuns, startSummary, startCurves, startCoordinates, startBars, startRecall, startImages, startConfig, startMade]) start();
document.getElementById('parts').append(...[...document.querySelectorAll('main section')].map((section) => make('li', {},
  make('a', { href: '#' + section.id }, section.querySelector('h2').textContent))));
requestAnimationFrame(() => setTimeout(() => {
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}));
