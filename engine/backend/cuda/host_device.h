// SLIM_HOST_DEVICE marks functions that kernels and host tests share.
#ifndef ENGINE_BACKEND_CUDA_HOST_DEVICE_H_
#define ENGINE_BACKEND_CUDA_HOST_DEVICE_H_

#ifdef __CUDACC__
#define SLIM_HOST_DEVICE __host__ __device__
#else
#define SLIM_HOST_DEVICE
#endif

#endif  // ENGINE_BACKEND_CUDA_HOST_DEVICE_H_
