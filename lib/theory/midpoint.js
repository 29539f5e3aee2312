// The limit of forward-only training and the way there, as lib.theory.late_training has them.
function separator({alpha_plus, alpha_minus}, {facts, forward_share}) {
  const gap = alpha_plus - alpha_minus, midpoint = (alpha_plus + alpha_minus) / 2;
  const x = 2 * (1 - midpoint) / gap, y = -2 * midpoint / gap, u = Math.max(1 / alpha_plus, x / 2);
  const g = facts * x - (facts - 1) * u;
  const p = ((1 - alpha_minus) * g - alpha_minus * y) / ((facts + 1) * gap);
  const r = ((1 - alpha_plus) * g - alpha_plus * y) / ((facts + 1) * gap);
  return {gap, midpoint, x, y, lag: Math.log(p / r) - Math.log(forward_share / (1 - forward_share))};
}
const lead = (alpha, {x, y}) => alpha * x + (1 - alpha) * y;

function limit(setting, given) {
  const {gap, midpoint, lag} = separator(setting, given), reverse = setting.alpha_reverse, share = given.forward_share;
  if (gap === 0 && setting.alpha_plus === 1) return 1 / (1 + ((1 - share) / share) ** reverse);
  if (Math.abs(reverse - midpoint) <= 1e-12 * Math.max(reverse, midpoint)) return gap === 0 ? share : 1 / (1 + Math.exp(lag / 2));
  return +((reverse > midpoint) === (gap >= 0));
}

// probabilities at this attention: the letter, one other letter, the placeholder
function predicted(alpha, {u, x, y}, facts) {
  const zero = -lead(alpha, {x, y}), other = -alpha * u, top = Math.max(0, zero, other);
  const [l, z, o] = [-top, zero - top, other - top].map(Math.exp), total = l + z + (facts - 1) * o;
  return {letter: l / total, other: o / total, zero: z / total};
}

function speed({alpha_plus, alpha_minus}, state, {facts, forward_share}) {
  const f = predicted(alpha_plus, state, facts), p = predicted(alpha_minus, state, facts);
  const missedF = f.zero + (facts - 1) * f.other, missedP = p.letter + (facts - 1) * p.other;
  const forward = forward_share * alpha_plus, placeholder = (1 - forward_share) * alpha_minus;
  return {
    u: forward * (missedF + f.other) - placeholder * (p.letter - p.other),
    x: forward * (missedF + f.zero) - placeholder * (p.letter + missedP),
    y: (facts + 1) * (forward_share * (1 - alpha_plus) * f.zero - (1 - forward_share) * (1 - alpha_minus) * missedP),
  };
}

// gradient flow from zero in log time, by the implicit method of Radau (three stages, order five): the flow is stiff
const root6 = Math.sqrt(6), nodes = [(4 - root6) / 10, (4 + root6) / 10, 1], names = ["u", "x", "y"];
const stages = [[(88 - 7 * root6) / 360, (296 - 169 * root6) / 1800, (-2 + 3 * root6) / 225],
                [(296 + 169 * root6) / 1800, (88 + 7 * root6) / 360, (-2 - 3 * root6) / 225],
                [(16 - root6) / 36, (16 + root6) / 36, 1 / 9]];

function solveLinear(matrix, right) {
  const rows = matrix.map((row, i) => [...row, right[i]]), n = rows.length;
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let k = i + 1; k < n; k++) if (Math.abs(rows[k][i]) > Math.abs(rows[pivot][i])) pivot = k;
    [rows[i], rows[pivot]] = [rows[pivot], rows[i]];
    for (let k = i + 1; k < n; k++) {
      const share = rows[k][i] / rows[i][i];
      for (let j = i; j <= n; j++) rows[k][j] -= share * rows[i][j];
    }
  }
  const found = Array(n).fill(0);
  for (let i = n - 1; i >= 0; i--) {
    let rest = rows[i][n];
    for (let j = i + 1; j < n; j++) rest -= rows[i][j] * found[j];
    found[i] = rest / rows[i][i];
  }
  return found;
}

let flow = {};
function solved(setting, given) {
  const key = `${setting.alpha_plus} ${setting.alpha_minus}`;
  if (flow.key === key) return flow.states;
  const step = 1 / given.steps_a_unit, states = [[0, 0, 0]];
  const rate = (time, [u, x, y]) => { const found = speed(setting, {u, x, y}, given), t = Math.exp(time); return names.map(name => t * found[name]); };
  const slopes = (time, state) => {  // columns of the derivative, by differences
    const columns = state.map((_, j) => { const [up, down] = [1e-5, -1e-5].map(by => rate(time, state.map((v, i) => i === j ? v + by : v)));
      return up.map((v, i) => (v - down[i]) / 2e-5); });
    return state.map((_, i) => columns.map(column => column[i]));
  };
  for (let k = 0; k < given.log_time * given.steps_a_unit; k++) {
    const start = states[k], before = states[k - 1] || start;
    let moved = nodes.flatMap(c => start.map((v, i) => c * (v - before[i])));
    for (let turn = 0; turn < 20; turn++) {
      const at = nodes.map((c, s) => [k * step + c * step, start.map((v, i) => v + moved[3 * s + i])]);
      const rates = at.map(one => rate(...one)), derivatives = at.map(one => slopes(...one));
      const missing = moved.map((v, row) => v - step * rates.reduce((sum, r, s) => sum + stages[Math.floor(row / 3)][s] * r[row % 3], 0));
      const matrix = moved.map((_, row) => moved.map((_, column) => +(row === column)
        - step * stages[Math.floor(row / 3)][Math.floor(column / 3)] * derivatives[Math.floor(column / 3)][row % 3][column % 3]));
      const change = solveLinear(matrix, missing);
      moved = moved.map((v, i) => v - change[i]);
      if (Math.max(...change.map(Math.abs)) < 1e-10) break;
    }
    states.push(start.map((v, i) => v + moved[6 + i]));
  }
  flow = {key, states: states.map(([u, x, y]) => ({u, x, y}))};
  return flow.states;
}

function compute(setting, given) {
  const found = separator(setting, given), state = solved(setting, given)[Math.round(setting.log_time * given.steps_a_unit)];
  return {
    midpoint: found.midpoint,
    margin: found.gap === 0 ? null : lead(setting.alpha_reverse, found),
    forward: predicted(setting.alpha_plus, state, given.facts).letter,
    reverse: predicted(setting.alpha_reverse, state, given.facts).letter,
    limit: limit(setting, given),
  };
}

function draw(setting, found, given, [left, right]) {
  const {alpha_plus, alpha_minus, alpha_reverse} = setting, line = separator(setting, given);
  const one = axes(left, {x: [0, 1], y: [-4, 4], xTicks: [0, 0.5, 1], yTicks: [-4, -1, 0, 1, 4],
    xLabel: "attention on the evidence", yLabel: "margin of the letter over the placeholder, in the limit"});
  if (line.gap > 0) one.area(line.midpoint, 1, "answer"); else if (line.gap < 0) one.area(0, line.midpoint, "answer");
  one.level(0, "quiet");
  one.upright(line.midpoint, "ink");
  if (line.gap !== 0) {  // the line, as far as the panel shows it
    const at = [-4, 4].map(f => line.midpoint + f * line.gap / 2).sort((a, b) => a - b), [from, to] = [Math.max(0, at[0]), Math.min(1, at[1])];
    one.curve([from, to].map(a => [a, lead(a, line)]), "ink");
    one.dot(alpha_plus, 1, "forward");
    one.dot(alpha_minus, -1, "other");
    one.dot(alpha_reverse, found.margin, "reverse", true);
    const [left, right] = line.gap > 0 ? ["end", "start"] : ["start", "end"];
    one.text("forward", alpha_plus, 1, "forward", left, -7, left === "end" ? -7 : 7);
    one.text("placeholder", alpha_minus, -1, "other", right, 16, right === "end" ? -7 : 7);
  }
  one.show();
  const two = axes(right, {x: [0, given.log_time], y: [0, 1], xTicks: [0, 10, 20, 30, 40].filter(t => t <= given.log_time),
    yTicks: [0, 0.5, 1], xLabel: "log training time", yLabel: "probability of the letter"});
  const states = solved(setting, given), along = alpha => states.map((s, k) =>
    [k / given.steps_a_unit, predicted(alpha, s, given.facts).letter]);
  two.upright(setting.log_time, "ink");
  two.curve(along(alpha_plus), "forward");
  two.curve(along(alpha_reverse), "reverse", "6 3");
  two.dot(setting.log_time, found.forward, "forward");
  two.dot(setting.log_time, found.reverse, "reverse", true);
  two.show();
}

function words({alpha_plus, alpha_minus, alpha_reverse}, {limit, midpoint}) {
  if (alpha_plus === alpha_minus) return alpha_plus === 1 ? "All attention is on the evidence in both kinds of prompts: the shared tokens are never trained, and no threshold exists."
    : "Both kinds of prompts attend alike and contradict each other: no weights separate them. At the same attention the reverse query gets the letter's share of the training prompts.";
  const side = (alpha_reverse > midpoint) === (alpha_plus > alpha_minus);
  return limit > 0 && limit < 1 ? "The reverse query lies exactly on the midpoint: its probability tends to a number between 0 and 1."
    : side ? "The reverse query lies on the forward prompts' side of the midpoint: in the limit it is answered."
    : "The reverse query lies on the placeholder prompts' side of the midpoint: it may rise for a while, and in the limit it is not answered.";
}
