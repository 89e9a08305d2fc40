// Sums over pairs of positions of sequences: scores W3^T sigmoid(q_m + k_n) with two derivatives, and mixtures of earlier and later items.
//
// One pass over the pairs while they are in the nearest cache, where XLA takes one for each result. Pairs of weight zero, padding for
// instance, are passed over where they add nothing (nor what is no number in them).

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "parallel.h"
#include "runs.h"

namespace metacsr {
namespace {

constexpr int64_t kSequences = 8;  // in a chunk

// Calls work(entry, s) for every sequence of every entry of a batch.
template <typename Work>
ffi::Error ForEachSequence(ffi::ThreadPool& pool, const Batch& batch, const Sequences& runs, const Work& work) {
  const int64_t each = runs.sequences();
  ForEach(pool, batch.count() * each, kSequences, [&](int64_t n) { work(n / each, n % each); });
  return ffi::Error::Success();
}

// A multiply and an add without rounding between them, where the processor has one.
inline float MultiplyAdd(float x, float y, float z) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return std::fma(x, y, z);
#else
  return x * y + z;
#endif
}

// exp(x) to some 1e-7 of itself (4e-6 on processors without such an instruction), in a form that loops over it are vectorised with
// (coefficients of the Cephes library).
inline float Exp(float x) {
  const float inside = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;  // not a number stays what it is
  const float power = std::nearbyint(inside * 1.44269504f);
  const float rest = MultiplyAdd(power, 2.12194440e-4f, MultiplyAdd(power, -0.693359375f, inside));
  float sum = MultiplyAdd(1.9875691500e-4f, rest, 1.3981999507e-3f);
  sum = MultiplyAdd(sum, rest, 8.3334519073e-3f);
  sum = MultiplyAdd(sum, rest, 4.1665795894e-2f);
  sum = MultiplyAdd(sum, rest, 1.6666665459e-1f);
  sum = MultiplyAdd(sum, rest, 5.0000001201e-1f);
  sum = MultiplyAdd(MultiplyAdd(sum, rest, 1.0f), rest, 1.0f);
  const int32_t bits = (static_cast<int32_t>(power) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x > 88.0f ? std::numeric_limits<float>::infinity() : x < -87.0f ? 0.0f : sum * scale;
}

// A sigmoid s = 1 / (1 + odds) of odds = exp(-q - k). Its derivatives are made of the odds, not of 1 - s, which loses its digits near 1.
struct Sigmoid {
  float odds, s;
  explicit Sigmoid(float product) : odds(product > 1e30f ? 1e30f : product), s(1.0f / (1.0f + odds)) {}
  float slope() const { return s * s * odds; }               // s (1 - s)
  float bend() const { return s * (odds - 1.0f); }            // 1 - 2 s, what the second derivative has besides
};

// a = exp(-q) and b = exp(-k) of a sequence's tokens, both counted from the latest q, so that only b can overflow.
class Exponentials {
 public:
  Exponentials(const float* end, const int64_t* row, int64_t length, int64_t width) : width_(width), both_(2 * length * width) {
    const float* latest = end + row[length - 1] * 2 * width;
    for (int64_t n = 0; n < length; ++n) {
      const float* from = end + row[n] * 2 * width;
      float* __restrict a = both_.data() + 2 * n * width;
      METACSR_VECTORISE
      for (int64_t d = 0; d < width; ++d) {
        const float apart = latest[d] - from[d];
        a[d] = Exp(apart > 85.0f ? 85.0f : apart < -85.0f ? -85.0f : apart);
      }
      METACSR_VECTORISE
      for (int64_t d = 0; d < width; ++d) a[width + d] = Exp(-(from[width + d] + latest[d]));
    }
  }

  const float* a(int64_t m) const { return both_.data() + 2 * m * width_; }
  const float* b(int64_t n) const { return both_.data() + (2 * n + 1) * width_; }

 private:
  int64_t width_;
  std::vector<float> both_;
};

// With a = exp(-q), b = exp(-k): out[m, n] = sum_d weight[d] / (1 + a[m, d] b[n, d])
ffi::Error PairScore(ffi::ThreadPool pool, Floats end, Floats weight, Result out, Numbers counts, Numbers longest) {
  const int64_t width = Axis(end, 1);
  const Sequences runs(counts, longest);
  const Batch batch(*out, 1);
  const auto end_of = batch.Of(end, 3), weight_of = batch.Of(weight, 1);
  const auto out_of = batch.Of(*out, 1);
  return ForEachSequence(pool, batch, runs, [&](int64_t entry, int64_t s) {
    const int64_t length = runs.length(s);
    const Exponentials exp(end_of[entry], runs.rows(s), length, width);
    const float* w = weight_of[entry];
    float* to = out_of[entry] + runs.pair(s);
    for (int64_t m = 0; m < length; ++m) {
      const float* am = exp.a(m);
      for (int64_t n = 0; n < length; ++n) {
        const float* bn = exp.b(n);
        float sum = 0;
        for (int64_t d = 0; d < width; ++d) sum += w[d] / (1.0f + am[d] * bn[d]);
        *to++ = sum;
      }
    }
  });
}

// First derivative of sum(g * PairScore) for q, k and weight, the last for each sequence.
ffi::Error PairPull(ffi::ThreadPool pool, Floats end, Floats weight, Floats g, Result d_end, Result d_weight, Numbers counts,
                    Numbers longest) {
  const int64_t width = Axis(end, 1);
  const Sequences runs(counts, longest);
  const Batch batch(*d_end, 3);
  const auto end_of = batch.Of(end, 3), weight_of = batch.Of(weight, 1), g_of = batch.Of(g, 1);
  const auto d_end_of = batch.Of(*d_end, 3), d_weight_of = batch.Of(*d_weight, 2);
  return ForEachSequence(pool, batch, runs, [&](int64_t entry, int64_t s) {
    const int64_t length = runs.length(s);
    const int64_t* row = runs.rows(s);
    const Exponentials exp(end_of[entry], row, length, width);
    const float* w = weight_of[entry];
    const float* gmn = g_of[entry] + runs.pair(s);
    float* to = d_end_of[entry];
    for (int64_t m = 0; m < length; ++m) std::fill_n(to + row[m] * 2 * width, 2 * width, 0.0f);
    float* __restrict dw = d_weight_of[entry] + s * width;
    std::fill_n(dw, width, 0.0f);
    for (int64_t m = 0; m < length; ++m) {
      const float* am = exp.a(m);
      float* __restrict qm = to + row[m] * 2 * width;
      for (int64_t n = 0; n < length; ++n) {
        const float gv = *gmn++;
        if (gv == 0.0f) continue;
        const float* bn = exp.b(n);
        float* __restrict kn = to + (row[n] * 2 + 1) * width;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) {
          const Sigmoid sigmoid(am[d] * bn[d]);
          const float slope = gv * sigmoid.slope();
          qm[d] += slope;
          kn[d] += slope;
          dw[d] += gv * sigmoid.s;
        }
      }
    }
    for (int64_t m = 0; m < length; ++m) {
      float* qk = to + row[m] * 2 * width;
      for (int64_t d = 0; d < width; ++d) qk[d] *= w[d];
      for (int64_t d = 0; d < width; ++d) qk[width + d] *= w[d];
    }
  });
}

// First derivative of sum(u * d_q) + sum(v * d_k) + sum(r * d_weight) of PairPull for q, k, weight (for each sequence) and g.
ffi::Error PairPullPull(ffi::ThreadPool pool, Floats end, Floats weight, Floats g, Floats uv, Floats r, Result d_end, Result d_weight,
                        Result d_g, Numbers counts, Numbers longest) {
  const int64_t width = Axis(end, 1);
  const Sequences runs(counts, longest);
  const Batch batch(*d_end, 3);
  const auto end_of = batch.Of(end, 3), weight_of = batch.Of(weight, 1), g_of = batch.Of(g, 1);
  const auto uv_of = batch.Of(uv, 3), r_of = batch.Of(r, 1);
  const auto d_end_of = batch.Of(*d_end, 3), d_weight_of = batch.Of(*d_weight, 2), d_g_of = batch.Of(*d_g, 1);
  return ForEachSequence(pool, batch, runs, [&](int64_t entry, int64_t s) {
    const int64_t length = runs.length(s);
    const int64_t* row = runs.rows(s);
    const Exponentials exp(end_of[entry], row, length, width);
    const float* w = weight_of[entry];
    const float* rd = r_of[entry];
    const float* gmn = g_of[entry] + runs.pair(s);
    const float* moving = uv_of[entry];
    float* to = d_end_of[entry];
    for (int64_t m = 0; m < length; ++m) std::fill_n(to + row[m] * 2 * width, 2 * width, 0.0f);
    float* __restrict dw = d_weight_of[entry] + s * width;
    std::fill_n(dw, width, 0.0f);
    float* dg = d_g_of[entry] + runs.pair(s);
    for (int64_t m = 0; m < length; ++m) {
      const float* am = exp.a(m);
      const float* um = moving + row[m] * 2 * width;
      float* __restrict qm = to + row[m] * 2 * width;
      for (int64_t n = 0; n < length; ++n) {
        const float gv = *gmn++;
        const float* bn = exp.b(n);
        const float* vn = moving + (row[n] * 2 + 1) * width;
        float* __restrict kn = to + (row[n] * 2 + 1) * width;
        float sum = 0;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) {
          const Sigmoid sigmoid(am[d] * bn[d]);
          const float first = sigmoid.slope(), moved = um[d] + vn[d], along = moved * w[d];
          const float slope = gv * first * (along * sigmoid.bend() + rd[d]);
          qm[d] += slope;
          kn[d] += slope;
          dw[d] += gv * first * moved;
          sum += first * along + rd[d] * sigmoid.s;
        }
        *dg++ = sum;
      }
    }
  });
}

// out[n, 0] = sum over m < n of weight[m, n] item[m]; out[n, 1] = the same over m > n
ffi::Error Mix(ffi::ThreadPool pool, Floats weight, Floats item, Result out, Numbers counts, Numbers longest) {
  const int64_t width = Axis(item, 1);
  const Sequences runs(counts, longest);
  const Batch batch(*out, 3);
  const auto weight_of = batch.Of(weight, 1), item_of = batch.Of(item, 2);
  const auto out_of = batch.Of(*out, 3);
  return ForEachSequence(pool, batch, runs, [&](int64_t entry, int64_t s) {
    const int64_t length = runs.length(s);
    const int64_t* row = runs.rows(s);
    const float* w = weight_of[entry] + runs.pair(s);
    const float* from = item_of[entry];
    float* to = out_of[entry];
    for (int64_t n = 0; n < length; ++n) std::fill_n(to + row[n] * 2 * width, 2 * width, 0.0f);
    for (int64_t m = 0; m < length; ++m) {
      const float* item_m = from + row[m] * width;
      for (int64_t n = 0; n < length; ++n) {
        const float wv = *w++;
        if (n == m || wv == 0.0f) continue;
        float* __restrict sum = to + (2 * row[n] + (m > n)) * width;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) sum[d] += wv * item_m[d];
      }
    }
  });
}

// out[m] = sum over n of weight[m, n] mixed[n, m > n], n other than m
ffi::Error Unmix(ffi::ThreadPool pool, Floats weight, Floats mixed, Result out, Numbers counts, Numbers longest) {
  const int64_t width = Axis(*out, 1);
  const Sequences runs(counts, longest);
  const Batch batch(*out, 2);
  const auto weight_of = batch.Of(weight, 1), mixed_of = batch.Of(mixed, 3);
  const auto out_of = batch.Of(*out, 2);
  return ForEachSequence(pool, batch, runs, [&](int64_t entry, int64_t s) {
    const int64_t length = runs.length(s);
    const int64_t* row = runs.rows(s);
    const float* w = weight_of[entry] + runs.pair(s);
    const float* from = mixed_of[entry];
    float* to = out_of[entry];
    for (int64_t m = 0; m < length; ++m) {
      float* __restrict sum = to + row[m] * width;
      std::fill_n(sum, width, 0.0f);
      for (int64_t n = 0; n < length; ++n) {
        const float wv = *w++;
        if (n == m || wv == 0.0f) continue;
        const float* mixed_n = from + (2 * row[n] + (m > n)) * width;
        METACSR_VECTORISE
        for (int64_t d = 0; d < width; ++d) sum[d] += wv * mixed_n[d];
      }
    }
  });
}

// out[m, n] = item[m] . mixed[n, m > n], 0 where n is m
ffi::Error MixDot(ffi::ThreadPool pool, Floats item, Floats mixed, Result out, Numbers counts, Numbers longest) {
  const int64_t width = Axis(item, 1);
  const Sequences runs(counts, longest);
  const Batch batch(*out, 1);
  const auto item_of = batch.Of(item, 2), mixed_of = batch.Of(mixed, 3);
  const auto out_of = batch.Of(*out, 1);
  return ForEachSequence(pool, batch, runs, [&](int64_t entry, int64_t s) {
    const int64_t length = runs.length(s);
    const int64_t* row = runs.rows(s);
    const float* from = item_of[entry];
    const float* with = mixed_of[entry];
    float* to = out_of[entry] + runs.pair(s);
    for (int64_t m = 0; m < length; ++m) {
      const float* item_m = from + row[m] * width;
      for (int64_t n = 0; n < length; ++n) {
        const float* mixed_n = with + (2 * row[n] + (m > n)) * width;
        float sum = 0;
        for (int64_t d = 0; d < width; ++d) sum += item_m[d] * mixed_n[d];
        *to++ = n == m ? 0.0f : sum;
      }
    }
  });
}

// out[m, n] = sum (or maximum) of x[k, n] over the k that are on m's side of n; 0 where m is n
template <bool kMaximum>
ffi::Error OverSide(ffi::ThreadPool pool, Floats x, Result out, Numbers counts, Numbers longest) {
  const Sequences runs(counts, longest);
  const Batch batch(*out, 1);
  const auto x_of = batch.Of(x, 1);
  const auto out_of = batch.Of(*out, 1);
  return ForEachSequence(pool, batch, runs, [&](int64_t entry, int64_t s) {
    const int64_t length = runs.length(s);
    const float* from = x_of[entry] + runs.pair(s);
    float* to = out_of[entry] + runs.pair(s);
    std::vector<float> total(2 * length, kMaximum ? -std::numeric_limits<float>::infinity() : 0.0f);
    for (int64_t m = 0; m < length; ++m) {
      for (int64_t n = 0; n < length; ++n) {
        float& side = total[(m > n) * length + n];
        const float value = from[m * length + n];
        if (n != m) side = kMaximum ? (value > side || value != value ? value : side) : side + value;
      }
    }
    for (int64_t m = 0; m < length; ++m) {
      for (int64_t n = 0; n < length; ++n) to[m * length + n] = n == m ? 0.0f : total[(m > n) * length + n];
    }
  });
}

auto Bound() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_PairScore, PairScore, Bound().Arg<Floats>().Arg<Floats>().Ret<Floats>().METACSR_RUNS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_PairPull, PairPull,
                              Bound().Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>().Ret<Floats>().METACSR_RUNS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_PairPullPull, PairPullPull,
                              Bound().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Floats>().Ret<Floats>()
                                  .Ret<Floats>().Ret<Floats>().METACSR_RUNS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_SideSum, OverSide<false>, Bound().Arg<Floats>().Ret<Floats>().METACSR_RUNS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_SideMax, OverSide<true>, Bound().Arg<Floats>().Ret<Floats>().METACSR_RUNS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_Mix, Mix, Bound().Arg<Floats>().Arg<Floats>().Ret<Floats>().METACSR_RUNS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_Unmix, Unmix, Bound().Arg<Floats>().Arg<Floats>().Ret<Floats>().METACSR_RUNS);
XLA_FFI_DEFINE_HANDLER_SYMBOL(metacsr_MixDot, MixDot, Bound().Arg<Floats>().Arg<Floats>().Ret<Floats>().METACSR_RUNS);

}  // namespace metacsr
