#include "fewbit/formats/quadratic_form.h"

#include <gtest/gtest.h>

#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

// Sizes on both sides of the panels and blocks.
TEST(QuadraticFormTest, EqualsTheSumOverAllPairs) {
  for (const size_t n : {1, 63, 130, 300}) {
    const size_t rows = 70;
    Matrix factor(n + 5, n), difference(rows, n);
    RandomStream(1, "factor").fill_normal(factor.values(), 0, 1);
    RandomStream(2, "difference").fill_normal(difference.values(), 0, 1);
    DoubleMatrix h(n, n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        for (size_t t = 0; t < factor.rows(); ++t) {
          h(i, j) += static_cast<double>(factor(t, i)) * factor(t, j);
        }
      }
    }
    double expected = 0;
    for (size_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) expected += difference(r, i) * h(i, j) * difference(r, j);
      }
    }
    const QuadraticForm form(h.view());
    const double total = form.total(difference.view());
    EXPECT_NEAR(total, expected, 1e-6 * expected);
    const size_t threads = thread_count();
    set_thread_count(1);
    EXPECT_EQ(form.total(difference.view()), total);
    set_thread_count(threads);
  }
}

}  // namespace
}  // namespace fewbit
