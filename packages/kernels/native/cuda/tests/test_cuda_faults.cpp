// What a machine without a healthy GPU answers: each call that fails is told of with a remedy, keeps nothing, and takes nobody with it.
// Over the emulator alone, whose answers can be set.
#include "cuda_fixture.h"
#include "emulator/runtime.h"

using namespace qspec;
using namespace qspec::test;
using cuda::emulator::Installation;

namespace {

bool has(const Status& status, const char* word) { return status.message().find(word) != std::string::npos; }

// ---- Devices that can't be used --------------------------------------------------------------------------------------------------------

struct DeviceCase {
  const char* name;
  Installation installation;
  int ordinal;
  StatusCode code;
  const char *word, *remedy;
};

Installation with_driver(int version) {
  Installation installation;
  installation.driver_version = version;
  return installation;
}
Installation with_count(int count, cudaError_t error) {
  Installation installation;
  installation.num_devices = count, installation.count_error = error;
  return installation;
}
Installation with_capability(int major, int minor) {
  Installation installation;
  installation.major = major, installation.minor = minor;
  return installation;
}

QSPEC_TEST(a_device_that_cannot_be_used_is_named_with_its_remedy) {
  const DeviceCase cases[] = {
      {"no driver", with_driver(0), 0, StatusCode::kDevice, "NVIDIA driver but found none", "use the CPU backend"},
      {"old driver", with_driver(12020), 0, StatusCode::kDevice, "CUDA 13.0 but it supports only 12.2", "update the driver"},
      {"driver that says so itself", with_count(0, cudaErrorInsufficientDriver), 0, StatusCode::kDevice, "Expected a driver for CUDA 13.0", "update the driver"},
      {"no device", with_count(0, cudaErrorNoDevice), 0, StatusCode::kDevice, "the driver sees none", "use the CPU backend"},
      {"none of several", with_count(0, cudaSuccess), 0, StatusCode::kDevice, "the driver sees none", "use the CPU backend"},
      {"system that isn't ready", with_count(0, cudaErrorSystemNotReady), 0, StatusCode::kDevice, "cudaErrorSystemNotReady", "nvidia-smi"},
      {"Turing", with_capability(7, 5), 0, StatusCode::kDevice, "capability 8.0 or newer but `emulated` has 7.5", "use the CPU backend"},
      {"one too many", with_count(2, cudaSuccess), 2, StatusCode::kInvalidArgument, "0..1 but received 2", "nvidia-smi -L"},
  };
  for (const DeviceCase& c : cases) {
    cuda::emulator::installation() = c.installation;
    std::shared_ptr<Backend> backend;
    const Status status = cuda::create_cuda_backend(c.ordinal, &backend);
    const cuda::CudaSummary summary = cuda::summarize_cuda(c.ordinal);
    cuda::emulator::installation() = {};
    if (status.code() != c.code || !has(status, c.word) || !has(status, c.remedy)) fail(__FILE__, __LINE__, "%s: status %d, %s", c.name, static_cast<int>(status.code()), status.message().c_str());
    QSPEC_EXPECT(backend == nullptr && !summary.is_usable && summary.problem == status.message());
    QSPEC_EXPECT(summary.driver_version == c.installation.driver_version && summary.runtime_version == c.installation.runtime_version);
  }
  QSPEC_EXPECT(cuda::summarize_cuda(0).is_usable);
}

// ---- Calls that fail -------------------------------------------------------------------------------------------------------------------

// Something a user does. Made anew for each fault; what it needs is there when it runs.
using Work = std::function<Status()>;
using MakeWork = std::function<Work()>;

struct Fault {
  cudaError_t error;
  bool is_lasting;  // the device is lost; else the next call is fine
};

enum class Calls { kAll, kAllocations };

// Each of the calls that `work` makes fails in its turn: work says so, and goes through again where only that call failed.
void check_every_failure(const char* name, const MakeWork& make, const Fault& fault, Calls which, StatusCode code, const char* word) {
  (void)cuda_backend();  // made by whoever asks first
  const int64_t held = cuda::emulator::num_held();
  int64_t num_calls = 0;
  {
    const Work work = make();
    const int64_t before = cuda::emulator::num_calls();
    expect_ok(work(), name);
    num_calls = cuda::emulator::num_calls() - before;
  }
  int num_failed = 0;
  for (int64_t i = 0; i < num_calls; ++i) {
    const Work work = make();
    const int64_t call = cuda::emulator::num_calls() + i;
    cuda::emulator::fail_at(call, fault.error, fault.is_lasting);
    const Status status = work();
    const bool counts = which == Calls::kAll || cuda::emulator::is_allocation(call);
    if (counts && (status.code() != code || !has(status, word)))
      fail(__FILE__, __LINE__, "%s, call %d of %d failing: expected status %d with `%s` but received %d: %s", name, static_cast<int>(i), static_cast<int>(num_calls), static_cast<int>(code), word,
           static_cast<int>(status.code()), status.message().c_str());
    num_failed += counts;
    if (fault.is_lasting && work().is_ok()) fail(__FILE__, __LINE__, "%s: works on a device that was lost at call %d", name, static_cast<int>(i));
    cuda::emulator::fail_never();
    if (!fault.is_lasting) expect_ok(work(), name);
  }
  QSPEC_EXPECT(num_failed > 0);
  if (cuda::emulator::num_held() != held) fail(__FILE__, __LINE__, "%s: %d more things are held than before", name, static_cast<int>(cuda::emulator::num_held() - held));
}

void check_every_failure(const char* name, const MakeWork& make) {
  check_every_failure(name, make, {cudaErrorIllegalAddress, true}, Calls::kAll, StatusCode::kDevice, "cudaErrorIllegalAddress");
  check_every_failure(name, make, {cudaErrorIllegalAddress, false}, Calls::kAll, StatusCode::kDevice, "nvidia-smi");
}

// What is asked of the device counts here, not what it computes.
struct WithoutKernels {
  WithoutKernels() { cuda::emulator::set_runs_kernels(false); }
  ~WithoutKernels() { cuda::emulator::set_runs_kernels(true); }
};

// A model with a draft mode, whose weights are there.
struct Fixture {
  Model model{{}, [](const std::string&) { return nested_spec(32, 12); }, 0};
  SessionSpec spec;

  Fixture() {
    spec.draft.name = "draft", spec.draft.plane = Plane::kHi, spec.draft.activation_bits = 8;
    spec.has_draft = true;
    (void)session_config(*cuda_backend(), model, spec);
  }
  std::shared_ptr<Session> session() { return make_session(cuda_backend(), model, spec); }
};

RoundBatch round_of(int num_logprobs) {
  RoundBatch batch;
  batch.pages = {{0, 2}, {3, 1}};
  batch.tokens = {4}, batch.token_offsets = {0, 1}, batch.start_positions = {0};
  batch.emit = {1}, batch.gammas = {2};
  SamplerParams params{};
  params.top_p = 1, params.repetition_penalty = 1, params.num_logprobs = num_logprobs;
  batch.samplers = {params};
  return batch;
}

Status forward_twice(Session& session, int rows) {
  for (int i = 0; i < 2; ++i) {
    ForwardResult result;
    QSPEC_RETURN_IF_ERROR(session.forward(chain(random_tokens(rows, 48, 1), 0, {0, 1, 2}), &result));
  }
  return {};
}

QSPEC_TEST(whichever_call_a_backend_fails_at_says_so) {
  const WithoutKernels without;
  check_every_failure("a backend", [] {
    return [] {
      std::shared_ptr<Backend> backend;
      return cuda::create_cuda_backend(0, &backend);
    };
  }, {cudaErrorIllegalAddress, true}, Calls::kAll, StatusCode::kDevice, "");
  cuda::emulator::installation().memory_bytes = size_t{1} << 20;  // little to read
  check_every_failure("bandwidth", [] {
    return [] {
      double rate = 0;
      return cuda_backend()->measure_read_bandwidth(&rate);
    };
  });
  cuda::emulator::installation() = {};
  check_every_failure("free bytes", [] {
    return [] {
      int64_t bytes = 0;
      return cuda_backend()->free_bytes(&bytes);
    };
  });
  for (const WeightSpec& spec : {dense_spec(DenseType::kBf16), int4_spec(32), nested_spec(32, 12)}) {
    const auto weight = std::make_shared<RandomWeight>(spec, 48, 64, 5);
    check_every_failure(spec.name().c_str(), [weight] {
      return [weight] {
        WeightRef made;
        return cuda_backend()->create_weight({weight->source("w")}, &made);
      };
    });
  }
}

QSPEC_TEST(whichever_call_a_session_fails_at_says_so) {
  const WithoutKernels without;
  Fixture fixture;
  const auto over_session = [&](const std::function<Status(Session&)>& work) -> MakeWork {
    return [&fixture, work] { return [session = fixture.session(), work] { return work(*session); }; };
  };
  check_every_failure("create_session", [&] {
    return [&] {
      std::unique_ptr<Session> session;
      return cuda_backend()->create_session(session_config(*cuda_backend(), fixture.model, fixture.spec), &session);
    };
  });
  check_every_failure("forward", over_session([](Session& session) { return forward_twice(session, 5); }));
  check_every_failure("a long forward", over_session([](Session& session) { return forward_twice(session, 40); }));
  for (const int num_logprobs : {-1, 2}) {
    check_every_failure("round", over_session([num_logprobs](Session& session) {
      RoundResult result;
      return session.round(round_of(num_logprobs), &result);
    }));
  }
  check_every_failure("copy_pages", over_session([](Session& session) { return session.copy_pages({1, 2}, {10, 11}); }));
  check_every_failure("a profile", over_session([](Session& session) {
    QSPEC_RETURN_IF_ERROR(session.set_profiling(true));
    return forward_twice(session, 5);
  }));
}

QSPEC_TEST(memory_that_is_not_there_is_named_with_what_to_lower) {
  const WithoutKernels without;
  const Fault fault{cudaErrorMemoryAllocation, false};
  Fixture fixture;
  const auto weight = std::make_shared<RandomWeight>(int4_spec(32), 48, 64, 5);
  check_every_failure("a weight", [weight] {
    return [weight] {
      WeightRef made;
      return cuda_backend()->create_weight({weight->source("w")}, &made);
    };
  }, fault, Calls::kAllocations, StatusCode::kOutOfMemory, " bytes");
  check_every_failure("a session", [&] {
    return [&] {
      std::unique_ptr<Session> session;
      return cuda_backend()->create_session(session_config(*cuda_backend(), fixture.model, fixture.spec), &session);
    };
  }, fault, Calls::kAllocations, StatusCode::kOutOfMemory, "lower ");
  // Descriptions of a batch that outgrow their place.
  check_every_failure("a big batch", [&] {
    return [session = fixture.session()] {
      RoundBatch batch = round_of(-1);
      const std::vector<int32_t> history(400000, 3);
      batch.samplers[0].history = history.data(), batch.samplers[0].num_history = static_cast<int>(history.size()), batch.samplers[0].num_prompt = 1;
      RoundResult result;
      return session->round(batch, &result);
    };
  }, fault, Calls::kAllocations, StatusCode::kOutOfMemory, "lower ");
}

// A call that failed leaves nothing behind that the next one would read.
QSPEC_TEST(what_follows_a_failed_call_has_the_same_bits) {
  Fixture fixture;
  for (const int rows : {5, 24}) {  // one kernel, and a long launch's many
    const std::vector<int32_t> tokens = random_tokens(rows, 48, 1), others = random_tokens(rows, 48, 2), pages = {0, 1};
    const std::vector<float> expected = forward_all(*fixture.session(), tokens, rows, pages);
    for (int64_t i = 0;; ++i) {
      const std::shared_ptr<Session> session = fixture.session();
      ForwardResult result;
      const int64_t first = cuda::emulator::num_calls();
      cuda::emulator::fail_at(first + i, cudaErrorMemoryAllocation, false);
      const Status status = session->forward(chain(others, 0, pages), &result);
      const bool is_past = cuda::emulator::num_calls() - first <= i;
      cuda::emulator::fail_never();
      if (is_past) break;
      QSPEC_EXPECT(status.code() == StatusCode::kOutOfMemory);
      const std::vector<float> logits = forward_all(*session, tokens, rows, pages);
      QSPEC_EXPECT_BITS(logits.data(), expected.data(), expected.size(), std::to_string(rows) + " rows, after call " + std::to_string(i) + " failed");
    }
  }
}

}  // namespace

QSPEC_TEST_MAIN()
