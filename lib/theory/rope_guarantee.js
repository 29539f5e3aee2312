// How strongly RoPE ties the two scores together, as lib.theory.bounds and lib.theory.certificates have it.
const frequencies = ({head_dim, base}) => Array.from({length: head_dim / 2}, (_, i) => base ** (-2 * i / head_dim));
const mean = numbers => numbers.reduce((sum, one) => sum + one, 0) / numbers.length;
const trace = (x, theta) => { let sum = 0; for (const one of theta) sum += Math.cos(x * one); return sum / theta.length; };

// E[sum w n / sum w D] for w uniform on the simplex: the integral of lib.theory.dirichlet.ratio_moments
function expectedRatio(n, D) {
  let total = 0;
  for (let x = -3.6; x < 60; x += 0.25) {
    const s = Math.exp(x - Math.exp(-x)) / n.length;
    let sum = 0, product = 1, log = 0;
    for (let i = 0; i < n.length; i++) {
      const one = 1 + s * D[i];
      sum += n[i] / one;
      product *= one;
      if (product > 1e250) { log += Math.log(product); product = 1; }
    }
    const weight = s * (1 + Math.exp(-x)) * Math.exp(-log - Math.log(product));
    total += sum * weight;
    if (x > 0 && s * weight < 1e-22) break;
  }
  return total * 0.25;
}

function expectedCorrelation(near, far, kappa, theta, nodes) {
  const numerator = theta.map(t => Math.cos((near + far) * t) + kappa * Math.cos((near - far) * t));
  const [one, two] = [near, far].map(x => theta.map(t => 1 + kappa * Math.cos(2 * x * t)));
  if (kappa === 0 || near === far) return expectedRatio(numerator, one);
  let sum = 0;
  for (let k = 0; k < nodes; k++) {
    const share = (1 + Math.cos((2 * k + 1) * Math.PI / (2 * nodes))) / 2;
    sum += expectedRatio(numerator, one.map((v, i) => share * v + (1 - share) * two[i]));
  }
  return sum / nodes;
}

function leastOverAlignments(near, far, theta) {
  const a = theta.map(t => Math.cos((near + far) * t)), b = theta.map(t => Math.cos((near - far) * t));
  return expectedRatio(a.map((one, i) => b[i] < 0 ? one + b[i] : one), a.map((one, i) => b[i] < 0 ? 1 + one * b[i] : 1));
}

// The trace's slope is at most the mean frequency: a step of trace / slope cannot pass a zero.
const zeros = new Map();
function firstZero(setting) {
  const key = `${setting.head_dim} ${setting.base}`;
  if (!zeros.has(key)) {
    const theta = frequencies(setting), slope = mean(theta);
    let low = 0, high = 0;
    while (!high) {
      const step = trace(low, theta) / slope;
      if (step < 1e-2 && trace(low + 1e-2, theta) < 0) high = low + 1e-2;
      else low += step;
    }
    while (high - low > 1e-9) { const middle = (low + high) / 2; if (trace(middle, theta) > 0) low = middle; else high = middle; }
    zeros.set(key, low);
  }
  return zeros.get(key);
}

function compute(setting) {
  const theta = frequencies(setting), {forward, reverse, kappa} = setting, zero = firstZero(setting);
  return {
    bound: trace(forward + reverse, theta),
    exact: expectedCorrelation(forward, reverse, kappa, theta, 32),
    least: leastOverAlignments(forward, reverse, theta),
    zero, context: Math.floor(zero / 2) + 1,
  };
}

function draw(setting, found, given, [svg]) {
  const theta = frequencies(setting), {forward, reverse, kappa} = setting, total = forward + reverse;
  const panel = axes(svg, {x: [2, 2e5], y: [-0.4, 1], log: true, xTicks: [10, 100, 1000, 10000, 100000], yTicks: [-0.4, 0, 0.5, 1],
    xLabel: "total distance of the evidence, in positions", yLabel: "correlation of the two scores",
    tick: at => at.toLocaleString("en")});
  const places = count => Array.from({length: count + 1}, (_, i) => 2 * 1e5 ** (i / count));
  const end = Math.min(found.zero, 2e5);
  panel.area(2, end, "answer");
  panel.level(0, "quiet");
  panel.upright(found.zero, "answer");
  panel.text("the bound ends", end, 1, "answer", end > 2e4 ? "end" : "start", -4);
  panel.curve(places(50).map(x => [x, expectedCorrelation(x * forward / total, x * reverse / total, kappa, theta, 6)]), "reverse");
  panel.curve(places(400).map(x => [x, trace(x, theta)]), "ink", "", 1);
  panel.dot(total, found.bound, "ink", true);
  panel.dot(total, found.exact, "reverse");
  panel.show();
}

function words({forward, reverse, kappa}, {bound, least, zero}) {
  if (kappa < 0) return "Keys vary more across the query than along it, against Assumption 4.2. Theorem 4.3 does not apply, and the exact value may lie below its bound.";
  if (forward !== reverse) return `The distances differ, so Theorem 4.3 does not apply. The paper's quantity for them (App. B.3), the least over all alignments from 0 to 1, is ${least.toFixed(3)}.`;
  if (bound <= 0) return "Theorem 4.3 applies, but its bound is not positive here: it promises nothing.";
  return forward + reverse < zero ? "Theorem 4.3 applies: the exact value is at least the bound, and the bound is positive at every shorter distance."
    : "Theorem 4.3 applies and its bound is positive here, but it is negative at some shorter distance.";
}
