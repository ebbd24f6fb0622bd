// What the loader of the CUDA module says when something is missing. Fake modules stand for the
// real one, which needs CUDA libraries.

#include "engine/backend/cuda/cuda_module.h"

#include "engine/backend/create_backend.h"
#include "gmock/gmock.h"

namespace slim {
namespace {

using ::testing::HasSubstr;

absl::Status Load(const std::string& path) { return CreateCudaBackend({path}).status(); }

TEST(CudaModuleTest, NamesThePathsWhenThereIsNoModule) {
  const absl::Status status = CreateCudaBackend({"/nowhere/a.so", "/nowhere/b.so"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/a.so, /nowhere/b.so"));
}

TEST(CudaModuleTest, LooksBesideTheProgramFirst) {
  const std::vector<std::string> paths = CudaModulePaths();
  ASSERT_FALSE(paths.empty());
  EXPECT_THAT(paths[0], HasSubstr("/libsliminfer_cuda.so"));
}

TEST(CudaModuleTest, PassesOnTheLoadersMessage) {
  const absl::Status status = Load(SLIM_NO_LIBRARY);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(SLIM_NO_LIBRARY));
}

TEST(CudaModuleTest, RefusesALibraryWithoutTheEntry) {
  const absl::Status status = Load(SLIM_NO_ENTRY_MODULE);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("slim_cuda_module"));
}

TEST(CudaModuleTest, NamesBothVersionsWhenTheyDiffer) {
  const absl::Status status = Load(SLIM_OLD_MODULE);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("interface version 0, this program needs"));
}

TEST(CudaModuleTest, ReturnsWhatTheModuleSaysOfTheDevice) {
  const absl::Status status = Load(SLIM_NO_GPU_MODULE);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no usable GPU"));
}

TEST(CreateBackendTest, AutoFallsBackToTheCpuAndSaysWhy) {
  if (CreateCudaBackend().ok()) GTEST_SKIP() << "this machine has a GPU";
  BackendOptions options;
  options.num_threads = 1;
  const auto choice = CreateBackend(options);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->backend->info().name, "cpu");
  EXPECT_FALSE(choice->cuda.ok());
  EXPECT_FALSE(choice->cuda.message().empty());

  options.kind = BackendKind::kCuda;
  const absl::Status refused = CreateBackend(options).status();
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--backend cuda: "));
}

TEST(CreateBackendTest, CpuDoesNotLookForCuda) {
  BackendOptions options;
  options.kind = BackendKind::kCpu;
  options.num_threads = 1;
  const auto choice = CreateBackend(options);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->backend->info().name, "cpu");
  EXPECT_TRUE(choice->cuda.ok());
}

}  // namespace
}  // namespace slim
