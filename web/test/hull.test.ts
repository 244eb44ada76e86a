import { describe, expect, it } from 'vitest';
import { excessOverHull } from '../src/hull';

const cube = [0, 1].flatMap((x) => [0, 1].flatMap((y) => [0, 1].map((z) => [x, y, z])));

function expectExcess(points: number[][], query: number[], expected: number[]): void {
  const excess = excessOverHull(points, query)!;
  excess.forEach((value, axis) => expect(value).toBeCloseTo(expected[axis]!, 6));
}

describe('excessOverHull', () => {
  it('is zero inside and on the hull', () => {
    expectExcess(cube, [0.3, 0.6, 0.9], [0, 0, 0]);
    expectExcess(cube, [1, 0.5, 1], [0, 0, 0]);
    expectExcess(cube, [0, 0, 0], [0, 0, 0]);
  });
  it('is the distance to the nearest face, edge or corner', () => {
    expectExcess(cube, [0.5, 0.5, 3], [0, 0, 2]);
    expectExcess(cube, [-1, 0.5, 3], [-1, 0, 2]);
    expectExcess(cube, [-1, -1, -1], [-1, -1, -1]);
  });
  it('sees a point outside a simplex whose coordinates are all within range', () => {
    const simplex = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]];
    expectExcess(simplex, [1, 1, 1], [2 / 3, 2 / 3, 2 / 3]);
  });
  it('handles hulls without volume', () => {
    expectExcess([[2, 2, 2]], [3, 2, 1], [1, 0, -1]);
    expectExcess([[0, 0, 3], [4, 0, 3]], [2, 1, 3], [0, 1, 0]);
    expectExcess(cube.map(([x, y]) => [x!, y!, 3]), [0.5, 0.5, 4], [0, 0, 1]);
    expectExcess([...cube, ...cube], [0.5, 0.5, 0.5], [0, 0, 0]);
  });
  it('is null without points', () => {
    expect(excessOverHull([], [1, 2, 3])).toBeNull();
  });
  it('agrees with projection by brute force on random points', () => {
    let state = 7;
    const next = () => (state = (state * 16807) % 2147483647) / 2147483647;
    for (let trial = 0; trial < 30; ++trial) {
      const points = Array.from({ length: 40 }, () => [20 * next(), 20 * next(), 2 + 2 * next()]);
      const query = [40 * next() - 10, 40 * next() - 10, 6 * next()];
      const excess = excessOverHull(points, query)!;
      // The nearest point p is optimal if no vertex lies beyond the plane through p across excess.
      const nearest = query.map((x, i) => x - excess[i]!);
      const squared = excess.reduce((sum, x) => sum + x * x, 0);
      for (const point of points) {
        const ahead = point.reduce((sum, x, i) => sum + (x - nearest[i]!) * excess[i]!, 0);
        expect(ahead).toBeLessThan(1e-5 * Math.max(1, squared));
      }
    }
  });
});
