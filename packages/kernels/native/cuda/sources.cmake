# Sources of the CUDA backend, relative to native/cuda: compiled by nvcc into qspec_cuda, and by the C++ compiler over the emulator for tests.
set(QSPEC_CUDA_SHARED_SOURCES
  common/device.cpp common/query_device.cpp
  gemm/cluster_gemm.cu
  sampling/sample.cu
  session/attention_plan.cpp session/cuda_backend.cpp session/cuda_session.cpp session/device_bandwidth.cu session/device_kv.cpp
  session/graph_cache.cpp session/launch_list.cpp session/lowering.cpp session/step_plan.cpp session/upload_arena.cpp
  step/attention_kernel.cu step/heads_kernel.cu step/folds_kernel.cu step/rows_kernel.cu step/step_launch.cu step/step_one.cu step/step_few.cu step/step_five.cu step/step_n1.cu step/step_n2.cu step/step_n3.cu step/step_n4.cu step/step_n8.cu step/step_blocks.cu
  weights/device_weight.cu weights/random_fill.cu)
