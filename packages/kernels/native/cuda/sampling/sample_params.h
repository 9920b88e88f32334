// What the sampling kernels are told. Plain data in device memory; the pipeline is that of qspec/sampling.h.
#pragma once
#include <cstdint>

namespace qspec::cuda {

// SamplerParams with device arrays: offsets into the batch's.
struct DeviceSampler {
  float temperature, top_p, min_p;
  int32_t top_k;
  float repetition_penalty, presence_penalty, frequency_penalty;
  uint32_t seed, stream;
  int32_t bias_offset, num_bias;
  int32_t history_offset, num_history, num_prompt;
};

// One logit row: who samples, where, and where the token goes.
struct SampleRow {
  int32_t sampler;
  int32_t position;      // of the token that is drawn
  int32_t drafted;       // index into tokens of the first token after history that this row presumes accepted
  int32_t num_drafted;
  int32_t destination;   // index into tokens
  int32_t is_general;    // top-k, top-p, bias or penalties: needs more than one pass
};

struct SampleBatch {
  int32_t num_rows;
  int32_t num_general;
  const SampleRow* rows;
  const int32_t* general_rows;  // [num_general]
  const DeviceSampler* samplers;
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t* history;
  int32_t* tokens;              // the round's pool
};

constexpr int kSampleThreads = 256;
constexpr int kSampleChunks = 32;    // blocks that share a row
constexpr int kGeneralThreads = 512;
constexpr int kGeneralBlocks = 16;   // rows that are sampled the long way at once

struct SampleBest {
  double score;
  int32_t id;
  float logit;  // for ties and infinities
};

struct SampleWorkspace {
  SampleBest* best;    // [rows][kSampleChunks]
  int32_t* arrivals;   // [rows], zero between launches
  float* adjusted;     // [kGeneralBlocks][vocab]
  int32_t* counts;     // [kGeneralBlocks][vocab], zero between launches
};

struct SampleParams {
  const SampleBatch* batch;
  const float* logits;  // [rows, vocab]
  int32_t vocab;
  SampleWorkspace workspace;
};

}  // namespace qspec::cuda
