// What a model attends to and answers at kept steps of its training: looked up, not computed.
const at = ({step, distance}, {steps, distances}) => [steps.indexOf(step), distances.indexOf(distance)];
const ways = ["forward", "reverse"];

function compute(setting, given) {
  const [k, d] = at(setting, given), found = {};
  for (const way of ways) {
    const {weights, letter, placeholder} = given[way];
    found[`${way}_weight`] = weights[k][d][given[way].evidence[d]];
    found[`${way}_letter`] = letter[k][d];
    found[`${way}_placeholder`] = placeholder[k][d];
    found[`${way}_accuracy`] = given[way].accuracy[k];
  }
  return found;
}

function draw(setting, found, given, panels) {
  const [k, d] = at(setting, given);
  ways.forEach((way, place) => {
    const {weights, queries, evidence} = given[way], row = weights[k][d];
    const panel = axes(panels[place], {x: [-0.6, row.length - 0.4], y: [0, 1], xTicks: row.map((_, j) => j),
      xTick: j => queries[d][j], yTicks: [0, 0.5, 1], yLabel: `attention weights of the ${way} query`});
    row.forEach((w, j) => panel.bar(j - 0.38, j + 0.38, w, j === evidence[d] ? way : "quiet"));
    panel.show();
  });
  const answers = axes(panels[2], {x: [-0.7, 6.7], y: [0, 1], xTicks: [0, 1, 2, 4, 5, 6], yTicks: [0, 0.5, 1],
    xTick: place => [given.letter, "0", "other"][place % 4], yLabel: "probabilities: forward left, reverse right"});
  ways.forEach((way, place) => {
    const [letter, placeholder] = [found[`${way}_letter`], found[`${way}_placeholder`]];
    [letter, placeholder, 1 - letter - placeholder].forEach((p, i) =>
      answers.bar(4 * place + i - 0.35, 4 * place + i + 0.35, p, [way, "other", "quiet"][i]));
  });
  answers.show();
  const last = given.steps[given.steps.length - 1] + 1;
  const curves = axes(panels[3], {x: [1, last], y: [0, 100], log: true, xTicks: [1, 10, 100, 1000, 10000].filter(x => x <= last),
    yTicks: [0, 50, 100], xLabel: "training step plus 1", yLabel: "accuracy over all queries, percent"});
  curves.upright(setting.step + 1, "ink");
  ways.forEach((way, place) => {
    curves.curve(given.steps.map((step, i) => [step + 1, given[way].accuracy[i]]), way, place ? "6 3" : "");
    curves.dot(setting.step + 1, found[`${way}_accuracy`], way, place === 1);
  });
  curves.show();
}

function words({step}, found, {letter}) {
  const likeliest = way => { const [l, p] = [found[`${way}_letter`], found[`${way}_placeholder`]];
    return l > p && l > 1 - l - p ? letter : p > 1 - l - p ? "0" : "by no one token clearly"; };
  return `After ${step} steps the forward query is answered ${likeliest("forward")}, the reverse query ${likeliest("reverse")}.`;
}
