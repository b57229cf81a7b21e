// Keeps for post.js what only the job's steps know.
const fs = require('fs');

fs.appendFileSync(process.env.GITHUB_STATE, `binary=${process.env.INPUT_BINARY}\n`);
