// How far a point lies outside the convex hull of others: Wolfe's minimum-norm-point algorithm
// (Mathematical Programming 11, 1976) on the points shifted by the query.

type Vector = readonly number[];

const dot = (a: Vector, b: Vector): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);

// Weights w (sum 1) that minimise |sum_i w_i p_i|^2 over the affine hull of `points`, by Gaussian
// elimination on [1 1' ; P'P]; null if the points are affinely dependent.
function affineMinimiser(points: readonly Vector[]): number[] | null {
  const n = points.length;
  const system = points.map((p) => [...points.map((q) => dot(p, q)), 1, 0]);
  system.push([...points.map(() => 1), 0, 1]);
  const scale = Math.max(1, ...points.map((p) => dot(p, p)));
  for (let column = 0; column <= n; ++column) {
    let pivot = column;
    for (let row = column + 1; row <= n; ++row) {
      if (Math.abs(system[row]![column]!) > Math.abs(system[pivot]![column]!)) pivot = row;
    }
    if (Math.abs(system[pivot]![column]!) < 1e-12 * scale) return null;
    [system[column], system[pivot]] = [system[pivot]!, system[column]!];
    for (let row = 0; row <= n; ++row) {
      if (row === column) continue;
      const factor = system[row]![column]! / system[column]![column]!;
      for (let k = column; k <= n + 1; ++k) system[row]![k]! -= factor * system[column]![k]!;
    }
  }
  return system.slice(0, n).map((row, i) => row[n + 1]! / row[i]!);
}

const combine = (points: readonly Vector[], weights: readonly number[]): number[] =>
  points[0]!.map((_, axis) => points.reduce((sum, p, i) => sum + weights[i]! * p[axis]!, 0));

// Query minus the nearest point of the hull of `points`, per axis; all zero inside. Null without points.
export function excessOverHull(points: readonly Vector[], query: Vector): number[] | null {
  if (points.length === 0) return null;
  const shifted = points.map((p) => p.map((x, i) => x - query[i]!));
  const scale = Math.max(1, ...shifted.map((p) => dot(p, p)));
  const tolerance = 1e-10 * scale;
  let corral = [shifted.reduce((best, p) => (dot(p, p) < dot(best, best) ? p : best))];
  let weights = [1];
  let nearest: number[] = [...corral[0]!];
  const maxRounds = 1000;
  for (let round = 0; round < maxRounds; ++round) {
    const here = nearest;
    const next = shifted.reduce((best, p) => (dot(here, p) < dot(here, best) ? p : best));
    if (dot(here, next) > dot(here, here) - tolerance || corral.includes(next)) break;
    corral = [...corral, next];
    weights = [...weights, 0];
    for (;;) {
      const target = affineMinimiser(corral);
      if (!target) {
        // The newcomer adds no direction: the present point is as near as rounding allows.
        corral = corral.slice(0, -1);
        weights = weights.slice(0, -1);
        break;
      }
      if (target.every((w) => w > 1e-12)) {
        weights = target;
        break;
      }
      let step = 1;
      target.forEach((w, i) => {
        if (w <= 1e-12) step = Math.min(step, weights[i]! / (weights[i]! - w));
      });
      const moved = weights.map((w, i) => w + step * (target[i]! - w));
      const kept = moved.map((w) => w > 1e-12);
      corral = corral.filter((_, i) => kept[i]);
      weights = moved.filter((w) => w > 1e-12);
      const total = weights.reduce((sum, w) => sum + w, 0);
      weights = weights.map((w) => w / total);
    }
    const moved = combine(corral, weights);
    if (dot(moved, moved) >= dot(nearest, nearest)) break;
    nearest = moved;
  }
  return nearest.map((x) => (Math.abs(x) < 1e-6 ? 0 : -x));
}
