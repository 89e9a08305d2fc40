// Sequences that come in runs, and where their tokens and pairs lie: metacsr_jax/runs.py, which kernels are told by counts and lengths.
#ifndef METACSR_RUNS_H_
#define METACSR_RUNS_H_

#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

#define METACSR_RUNS Attr<Numbers>("counts").Attr<Numbers>("longest")

namespace metacsr {

using Numbers = xla::ffi::Span<const int64_t>;

// Positions that the same sequences have: those from `first` on, from `far` before the end to, but without, `near` before the end.
struct Stair {
  int64_t first, near, far;
  int64_t token;  // the first of them

  int64_t positions() const { return far - near; }
};

class Runs {
 public:
  Runs(Numbers counts, Numbers longest) {
    int64_t known = 0;
    for (size_t run = 0; run < counts.size(); ++run) {
      if (longest[run] > known) stairs_.push_back({sequences_, known, longest[run], 0});
      known = longest[run];
      sequences_ += counts[run];
    }
    for (Stair& stair : stairs_) {
      stair.token = tokens_;
      tokens_ += (sequences_ - stair.first) * stair.positions();
    }
  }

  int64_t sequences() const { return sequences_; }
  int64_t tokens() const { return tokens_; }
  int64_t longest() const { return stairs_.back().far; }
  const std::vector<Stair>& stairs() const { return stairs_; }

 private:
  int64_t sequences_ = 0, tokens_ = 0;
  std::vector<Stair> stairs_;
};

// The tokens and pairs of each sequence.
class Sequences : public Runs {
 public:
  Sequences(Numbers counts, Numbers longest) : Runs(counts, longest) {
    for (size_t run = 0; run < counts.size(); ++run) {
      for (int64_t n = 0; n < counts[run]; ++n) {
        first_.push_back(first_.empty() ? 0 : first_.back() + length_.back());
        length_.push_back(longest[run]);
        pair_.push_back(pairs_);
        pairs_ += longest[run] * longest[run];
      }
    }
    row_.resize(tokens());
    for (const Stair& stair : stairs()) {
      int64_t token = stair.token;
      for (int64_t s = stair.first; s < sequences(); ++s) {
        const int64_t stop = first_[s] + length_[s] - stair.near;  // of this stair's part of the sequence
        for (int64_t n = stop - stair.positions(); n < stop; ++n) row_[n] = token++;
      }
    }
  }

  int64_t pairs() const { return pairs_; }
  int64_t length(int64_t s) const { return length_[s]; }
  const int64_t* rows(int64_t s) const { return row_.data() + first_[s]; }  // of the sequence's tokens, the earliest first
  int64_t pair(int64_t s) const { return pair_[s]; }

 private:
  int64_t pairs_ = 0;
  std::vector<int64_t> first_, length_, pair_, row_;
};

}  // namespace metacsr

#endif  // METACSR_RUNS_H_
