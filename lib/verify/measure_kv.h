// Measures K and V, head by head: reconstructs, compares, and puts the negative controls in their place.
#pragma once

#include <functional>
#include <memory>

#include "lib/cache/cache_codec.h"
#include "lib/cache/kv_options.h"
#include "lib/io/kv_file.h"
#include "lib/measure/attention_stats.h"
#include "lib/parallel.h"
#include "lib/verify/report.h"
#include "lib/verify/source.h"

namespace tq {

struct MeasureOptions {
  int threads = 1;
  bool control_attention = false;        ///< attention statistics of the controls too (a gate asks for them)
  std::int64_t attention_queries = 512;  ///< the last queries of each head that attention is measured on
  Progress progress;                     ///< gets heads
  MeasureAttention attention = measure_attention;  ///< what measures attention: the CPU, or a device
};

/// The codec of a head of K or V of a layer (position in the source, not its index).
using CodecOf = std::function<std::shared_ptr<const CacheCodec>(std::size_t layer, KvPart part, std::int64_t head)>;

/// `packed`: codes are read from that file (whose layers are those of the source), else rows are coded in memory.
std::vector<LayerReport> measure_kv(const KvSource& source, const CodecOf& codec_of, const KvFile* packed,
                                    const Backend& backend, const MeasureOptions& options);

}  // namespace tq
