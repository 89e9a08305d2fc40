// Products of sequences of states with W6 by stairs (metacsr_jax/models/products.py), and their derivatives; of samples with a matrix,
// where every sequence is one token.

#include <vector>

#include "parallel.h"
#include "product.h"
#include "runs.h"

namespace metacsr {
namespace {

// Sizes of sequences of states [P, E], W6 [L E, O] and what they give [S, O], with the part that each stair has.
struct Sizes {
  const Runs runs;
  int64_t wide, out, length;  // E, O, L

  int64_t sequences(const Stair& stair) const { return runs.sequences() - stair.first; }
  int64_t features(const Stair& stair) const { return stair.positions() * wide; }
  int64_t row(const Stair& stair) const { return (length - stair.far) * wide; }  // of W6
  Matrix states(const float* state, const Stair& stair) const { return {state + stair.token * wide, features(stair), 1}; }
  Matrix weights(const float* matrix, const Stair& stair) const { return {matrix + row(stair) * out, out, 1}; }
  Matrix results(const float* y, const Stair& stair) const { return {y + stair.first * out, out, 1}; }
};

// out[s] = sum over the sequence's positions l of state[s, l] W[l]
ffi::Error StairTimes(ffi::ThreadPool pool, Floats state, Floats matrix, Result out, Numbers counts, Numbers longest, int64_t length) {
  const Sizes of{Runs(counts, longest), Axis(state, 1), Axis(matrix, 1), length};
  const Batch batch(*out, 2);
  const auto state_of = batch.Of(state, 2), matrix_of = batch.Of(matrix, 2);
  const auto out_of = batch.Of(*out, 2);
  std::vector<Product> products;
  for (int64_t entry = 0; entry < batch.count(); ++entry) {
    Product product{out_of[entry], of.runs.sequences(), of.out, {}};
    for (const Stair& stair : of.runs.stairs()) {
      product.terms.push_back(
          {of.states(state_of[entry], stair), of.weights(matrix_of[entry], stair), stair.first, of.features(stair)});
    }
    products.push_back(std::move(product));
  }
  return ComputeAll(pool, products);
}

// Its derivative for the states: out[s, l] = y[s] W[l]^T
ffi::Error StairBack(ffi::ThreadPool pool, Floats y, Floats matrix, Result out, Numbers counts, Numbers longest, int64_t length) {
  const Sizes of{Runs(counts, longest), Axis(*out, 1), Axis(matrix, 1), length};
  const Batch batch(*out, 2);
  const auto y_of = batch.Of(y, 2), matrix_of = batch.Of(matrix, 2);
  const auto out_of = batch.Of(*out, 2);
  std::vector<Product> products;
  for (int64_t entry = 0; entry < batch.count(); ++entry) {
    for (const Stair& stair : of.runs.stairs()) {
      const Term term = {of.results(y_of[entry], stair), Turned(of.weights(matrix_of[entry], stair)), 0, of.out};
      products.push_back({out_of[entry] + stair.token * of.wide, of.sequences(stair), of.features(stair), {term}});
    }
  }
  return ComputeAll(pool, products);
}

// Its derivative for W: out[l] = sum_s state[s, l]^T y[s]
ffi::Error StairOuter(ffi::ThreadPool pool, Floats state, Floats y, Result out, Numbers counts, Numbers longest, int64_t length) {
  const Sizes of{Runs(counts, longest), Axis(state, 1), Axis(y, 1), length};
  const Batch batch(*out, 2);
  const auto state_of = batch.Of(state, 2), y_of = batch.Of(y, 2);
  const auto out_of = batch.Of(*out, 2);
  std::vector<Product> products;
  for (int64_t entry = 0; entry < batch.count(); ++entry) {
    for (const Stair& stair : of.runs.stairs()) {
      const Term term = {Turned(of.states(state_of[entry], stair)), of.results(y_of[entry], stair), 0, of.sequences(stair)};
      products.push_back({out_of[entry] + of.row(stair) * of.out, of.features(stair), of.out, {term}});
    }
    products.push_back({out_of[entry], (length - of.runs.longest()) * of.wide, of.out, {}});  // nobody has these positions
  }
  return ComputeAll(pool, products);
}

}  // namespace

#define METACSR_STAIRS(name)                                                                                                    \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_##name, name,                                                                           \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>().METACSR_RUNS \
                                    .Attr<int64_t>("length"))

METACSR_STAIRS(StairTimes);
METACSR_STAIRS(StairBack);
METACSR_STAIRS(StairOuter);

}  // namespace metacsr
