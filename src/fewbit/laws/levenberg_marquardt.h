// Levenberg-Marquardt on the normal equations, for a handful of parameters and many fits.
//
// Minimises cost(x) = 1/2 sum_i w_i r_i(x)^2 to machine precision: near the optimum, where the cost
// no longer changes in double precision, a step is still accepted if it halves the Newton
// decrement g' H^-1 g, so that the gradient, not the cost, decides. Nothing is absolute: scaling
// the cost or the parameters changes no decision. A step to a cost that is not finite is rejected.
//
// Ceres does the same job but sets up a problem of objects for each fit, which costs more than the
// fit itself when a bootstrap asks for thousands (bench/law_bootstrap.py gives the figures).
#pragma once

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <utility>

namespace fewbit {

struct LeastSquaresOptions {
  int max_iterations = 300;
  // First damping, relative to the diagonal of the Hessian.
  double damping = 0.1;
  // Stops when a Newton step would lower the cost by less than this share of it. A parameter is
  // then within about sqrt(tolerance * rows) standard errors of the optimum.
  double tolerance = 1e-24;
};

// Cost, gradient and Gauss-Newton Hessian at a point.
struct NormalEquations {
  double cost = 0;
  Eigen::VectorXd gradient;
  Eigen::MatrixXd hessian;
};

struct LeastSquaresResult {
  Eigen::VectorXd x;
  double cost = 0;
  int accepted_steps = 0;
  bool converged = false;
};

// `evaluate(x, equations)` fills cost, gradient and Hessian at x.
template <class Evaluate>
LeastSquaresResult minimise_least_squares(Evaluate&& evaluate, Eigen::VectorXd x,
                                          const LeastSquaresOptions& options) {
  // Damping that is raised so often in a row finds no lower cost anywhere.
  constexpr int kMaxRejected = 14;
  constexpr double kRaise = 10, kLower = 0.1, kMinDamping = 1e-14;
  constexpr double kCostNoise = 1e-12;
  const auto finite = [](const NormalEquations& at) {
    return std::isfinite(at.cost) && at.gradient.allFinite() && at.hessian.allFinite();
  };

  LeastSquaresResult result;
  NormalEquations here, there;
  evaluate(x, here);
  result.x = x;
  result.cost = here.cost;
  if (!finite(here)) return result;
  double damping = options.damping;
  int rejected = 0;
  Eigen::LDLT<Eigen::MatrixXd> factor;
  const auto newton_step = [&](const NormalEquations& at, Eigen::VectorXd& step) {
    Eigen::MatrixXd damped = at.hessian;
    damped.diagonal() *= 1 + damping;
    factor.compute(damped);
    step = -factor.solve(at.gradient);
    return -at.gradient.dot(step);
  };
  Eigen::VectorXd step, next_step;
  double decrement = newton_step(here, step);
  for (int i = 0; i < options.max_iterations; ++i) {
    if (step.allFinite() && decrement <= 2 * options.tolerance * here.cost) {
      result.converged = true;
      break;
    }
    bool accept = false;
    double next_decrement = 0;
    if (step.allFinite()) {
      x = result.x + step;
      evaluate(x, there);
      if (finite(there)) {
        next_decrement = newton_step(there, next_step);
        accept = there.cost < here.cost * (1 - kCostNoise) ||
                 (there.cost <= here.cost * (1 + kCostNoise) && next_decrement < decrement / 2);
      }
    }
    if (accept) {
      std::swap(here, there);
      result.x = x;
      ++result.accepted_steps;
      rejected = 0;
      damping = std::max(kMinDamping, damping * kLower);
    } else {
      // No direction lowers the cost beyond rounding: this is the optimum.
      if (++rejected > kMaxRejected) {
        result.converged = true;
        break;
      }
      damping *= kRaise;
    }
    decrement = newton_step(here, step);
  }
  result.cost = here.cost;
  return result;
}

}  // namespace fewbit
