// One query of a one-layer model, taken apart as lib.one_layer.token_account does it.
const placed = ({mask, place}) => place < mask ? place : place + 1;
const name = letter => String.fromCharCode(97 + letter), capital = letter => name(letter).toUpperCase();

function answered({letter, mask, ...more}, {scores, own, readout, gram, bias, epsilon, placeholder}) {
  const letters = scores.length - 1, evidence = placed({mask, ...more});
  const source = own.map((_, j) => j === evidence ? letter : j === mask ? letters + 1 : letters);
  const score = source.map((_, j) => j === evidence ? scores[letter][mask][j] : j === mask ? own[mask] : scores[letters][mask][j]);
  const top = Math.max(...score), raised = score.map(s => Math.exp(s - top)), sum = raised.reduce((a, b) => a + b);
  const weight = raised.map(one => one / sum), total = Array(letters + 2).fill(0).concat(1);
  source.forEach((s, j) => { total[s] += weight[j]; });
  const dot = row => row.reduce((all, one, s) => all + one * total[s], 0);
  const size = Math.sqrt(dot(gram.map(dot)) + epsilon);
  const difference = total.map((_, s) => (readout[letter][s] - readout[placeholder][s]) / size);
  const logits = readout.map((row, c) => dot(row) / size + bias[c]), highest = Math.max(...logits);
  const odds = logits.map(one => Math.exp(one - highest)), all = odds.reduce((a, b) => a + b);
  return {
    evidence, score, weight, contribution: weight.map((w, j) => w * difference[source[j]]),
    rest: difference[letters + 2] + bias[letter] - bias[placeholder],
    probability: odds.map(one => one / all), best: logits.indexOf(highest),
  };
}

const said = (slider, setting, {own}) => slider === "mask" ? `position ${setting.mask + 1}`
  : slider === "place" ? `position ${placed(setting) + 1} of ${own.length}` : "";

function compute(setting, given) {
  const found = answered(setting, given), {letter} = setting, sum = found.contribution.reduce((a, b) => a + b);
  return {
    score: found.score[found.evidence], weight: found.weight[found.evidence],
    contribution: found.contribution[found.evidence], margin: sum + found.rest,
    letter: found.probability[letter], placeholder: found.probability[given.placeholder],
    answer: given.alphabet[found.best],
  };
}

function draw(setting, values, given, panels) {
  const found = answered(setting, given), {letter, mask} = setting, length = given.own.length;
  const colour = found.evidence > mask ? "forward" : "reverse";
  const token = j => j === found.evidence ? capital(letter) : j === mask ? "_" : j < length ? "0" : "rest";
  const row = (svg, numbers, yLabel, least) => {
    const y = [Math.min(0, ...numbers) * 1.1, Math.max(least, ...numbers) * 1.05];
    const panel = axes(svg, {x: [-0.6, numbers.length - 0.4], y, xTicks: numbers.map((_, j) => j), xTick: token, yTicks: ticks(...y), yLabel});
    numbers.forEach((v, j) => panel.bar(j - 0.38, j + 0.38, v, j === found.evidence ? colour : "quiet"));
    panel.level(0, "quiet");
    panel.show();
  };
  row(panels[0], found.score, "score", 1);
  row(panels[1], found.weight, "attention weight", 1);
  row(panels[2], [...found.contribution, found.rest], `contribution to the logit difference, ${name(letter)} less 0`, 1);
  const shown = [[name(letter), values.letter], ["0", values.placeholder], ["other", 1 - values.letter - values.placeholder]];
  const panel = axes(panels[3], {x: [-0.6, 2.6], y: [0, 1], xTicks: [0, 1, 2], xTick: at => shown[at][0], yTicks: [0, 0.5, 1], yLabel: "probability of the answer"});
  shown.forEach(([, p], at) => panel.bar(at - 0.3, at + 0.3, p, ["answer", "other", "quiet"][at]));
  panel.show();
}

function words(setting, {answer}, given) {
  const evidence = placed(setting), {letter, mask} = setting;
  const way = evidence > mask ? "forward, as in training" : "reverse, never trained";
  return `The query is ${given.own.map((_, j) => j === evidence ? capital(letter) : j === mask ? "_" : "0").join("")}: ${way}. `
    + `The model answers ${answer}, which is ${answer === name(letter) ? "right" : "wrong"}.`;
}
