// The job's end, whatever its outcome: each part is tried, however the others went. A failure is a warning, for the job's
// result is its steps'.
const { spawnSync } = require('child_process');
const fs = require('fs');
const path = require('path');

const standin = process.env.STATE_binary;
const directory = path.join(process.env.RUNNER_TEMP, 'standin-job');
const ready = path.join(directory, 'ready.json');

function run(program, args) {
  const result = spawnSync(program, args, { encoding: 'utf8' });
  const said = `${result.stdout || ''}${result.stderr || ''}`.trim();
  if (said) console.log(said);
  if (result.status === 0) return;
  console.log(`::warning::standin: ${[program, ...args].join(' ')} failed: ${result.error || said.split('\n').pop()}`);
}

function asRoot(args) {
  const is = process.getuid() === 0 || spawnSync('sudo', ['-n', 'true']).status !== 0;
  if (is) run(standin, args);
  else run('sudo', [standin, ...args]);
}

if (fs.existsSync(directory)) {
  const list = path.join(directory, 'configured');
  const clients = fs.existsSync(list) ? fs.readFileSync(list, 'utf8').trim().split('\n') : [];
  for (const client of clients.reverse()) asRoot(['configure', client, '--undo']);
  // The report is written once the server has stopped.
  run(standin, ['stop', '--ready-file', ready]);
  const report = path.join(directory, 'report.md');
  if (fs.existsSync(report)) fs.appendFileSync(process.env.GITHUB_STEP_SUMMARY, fs.readFileSync(report));
}
