#include "kernels/cuda/cublas.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/product_timings.h"
#include "kernels/cuda/tensor_map.h"

namespace skein::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for compute capability 9.0
constexpr int kProposals = 8;

Status failure(cublasStatus_t status, const std::string& what) {
  return Status(Code::kInternal, what + ": " + cublasLtGetStatusString(status), Scope::kReplica);
}

// A product as the library sees it: columns first, so out^T (outputs, tokens) = weight (transposed) x^T.
struct Problem {
  Problem(const LinearArgs& args, int64_t tokens) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cudaDataType_t type = args.out.format == Format::kF32 ? CUDA_R_32F : CUDA_R_16BF;
    const auto columns = static_cast<uint64_t>(args.weight.columns);
    const auto outputs = static_cast<uint64_t>(args.weight.rows);
    const bool made =
        cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
        cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) ==
            CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutCreate(&weight, CUDA_R_16BF, columns, outputs, args.weight.row_stride) ==
            CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, columns, static_cast<uint64_t>(tokens), args.x.row_stride) ==
            CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutCreate(&out, type, outputs, static_cast<uint64_t>(tokens), args.out.row_stride) ==
            CUBLAS_STATUS_SUCCESS;
    CHECK(made);
  }
  ~Problem() {
    cublasLtMatrixLayoutDestroy(out);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatmulDescDestroy(description);
  }
  Problem(const Problem&) = delete;

  std::vector<cublasLtMatmulAlgo_t> proposals(cublasLtHandle_t handle, cublasLtMatmulPreference_t preference,
                                              int count) const {
    std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(count));
    int found = 0;
    // A failure is the library's way to say that there is none.
    cublasLtMatmulAlgoGetHeuristic(handle, description, weight, x, out, out, preference, count, results.data(), &found);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    for (int i = 0; i < found; ++i) {
      if (results[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS) {
        algorithms.push_back(results[static_cast<size_t>(i)].algo);
      }
    }
    return algorithms;
  }

  bool can(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm) const {
    cublasLtMatmulHeuristicResult_t result;
    return cublasLtMatmulAlgoCheck(handle, description, weight, x, out, out, &algorithm, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= kWorkspaceBytes;
  }

  cublasStatus_t run(cublasLtHandle_t handle, const LinearArgs& args, const cublasLtMatmulAlgo_t& algorithm,
                     void* workspace, CUstream_st* stream) const {
    const float one = 1;
    const float zero = 0;
    return cublasLtMatmul(handle, description, &one, args.weight.data, weight, args.x.data, x, &zero, args.out.data,
                          out, args.out.data, out, &algorithm, workspace, kWorkspaceBytes, stream);
  }

  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t weight = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
};

}  // namespace

// --- The choice of an algorithm, and the cache file's lines ---

struct CublasLt::State {
  ~State();
  bool find_fastest(CudaDevice& device, const ProductShape& shape, std::span<const LinearArgs> products);

  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  void* workspace = nullptr;
  std::map<ProductShape, cublasLtMatmulAlgo_t> chosen;
};

CublasLt::State::~State() {
  cudaFree(workspace);
  if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
  if (handle != nullptr) cublasLtDestroy(handle);
}

bool CublasLt::State::find_fastest(CudaDevice& device, const ProductShape& shape,
                                   std::span<const LinearArgs> products) {
  const Problem problem(products[0], products[0].x.rows);
  const std::vector<cublasLtMatmulAlgo_t> found = problem.proposals(handle, preference, kProposals);
  const std::vector<double> times =
      product_times_us(device, products[0].x.rows, found.size(), [&](size_t proposal, size_t i) {
        const LinearArgs& product = products[i % products.size()];
        return problem.run(handle, product, found[proposal], workspace, device.stream()) == CUBLAS_STATUS_SUCCESS;
      });
  const auto fastest = std::ranges::min_element(times);
  if (fastest == times.end() || std::isinf(*fastest)) return false;
  chosen[shape] = found[static_cast<size_t>(fastest - times.begin())];
  return true;
}

// Eight words in hexadecimal, tabs between them.
std::string text_of(const cublasLtMatmulAlgo_t& algorithm) {
  std::ostringstream text;
  text << std::hex;
  for (const uint64_t word : algorithm.data) text << (text.tellp() == 0 ? "" : "\t") << word;
  return text.str();
}

std::optional<cublasLtMatmulAlgo_t> parse_algorithm(const std::string& text) {
  std::istringstream words(text);
  cublasLtMatmulAlgo_t algorithm{};
  for (uint64_t& value : algorithm.data) {
    std::string word;
    if (!std::getline(words, word, '\t')) return std::nullopt;
    const char* const last = word.data() + word.size();
    if (const auto [end, error] = std::from_chars(word.data(), last, value, 16); error != std::errc() || end != last) {
      return std::nullopt;
    }
  }
  return words.peek() == EOF ? std::optional(algorithm) : std::nullopt;
}

// --- The class ---

CublasLt::CublasLt(std::unique_ptr<State> state) : state_(std::move(state)) {}
CublasLt::~CublasLt() = default;

Result<std::unique_ptr<CublasLt>> CublasLt::open() {
  auto state = std::make_unique<State>();
  cublasStatus_t status = cublasLtCreate(&state->handle);
  if (status != CUBLAS_STATUS_SUCCESS) return failure(status, "cuBLASLt cannot be used");
  status = cublasLtMatmulPreferenceCreate(&state->preference);
  if (status != CUBLAS_STATUS_SUCCESS) return failure(status, "cublasLtMatmulPreferenceCreate");
  status = cublasLtMatmulPreferenceSetAttribute(state->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                &kWorkspaceBytes, sizeof kWorkspaceBytes);
  if (status != CUBLAS_STATUS_SUCCESS) return failure(status, "cublasLtMatmulPreferenceSetAttribute");
  if (const cudaError_t error = cudaMalloc(&state->workspace, kWorkspaceBytes); error != cudaSuccess) {
    return Status(Code::kInternal, std::string("cuBLASLt's working memory: ") + cudaGetErrorString(error),
                  Scope::kReplica);
  }
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(state)));
}

size_t CublasLt::version() { return cublasLtGetVersion(); }

bool CublasLt::multiply(CudaDevice& device, const LinearArgs& args) {
  if (!copy_engine_reads(args.x) || !copy_engine_reads(args.weight)) return false;
  const ProductShape shape = shape_of(args.x, args.weight, args.out.format == Format::kF32);
  const Problem problem(args, args.x.rows);
  auto found = state_->chosen.find(shape);
  if (found == state_->chosen.end()) {
    const auto proposals = Problem(args, shape.tokens).proposals(state_->handle, state_->preference, 1);
    if (!proposals.empty()) found = state_->chosen.emplace(shape, proposals[0]).first;
  }
  if (found != state_->chosen.end() && problem.can(state_->handle, found->second)) {
    const cublasStatus_t status = problem.run(state_->handle, args, found->second, state_->workspace, device.stream());
    device.check(status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown, "cublasLtMatmul");
    return true;
  }
  // What suits the bucket need not suit every number of tokens in it.
  const auto proposals = problem.proposals(state_->handle, state_->preference, 1);
  if (proposals.empty()) return false;
  const cublasStatus_t status = problem.run(state_->handle, args, proposals[0], state_->workspace, device.stream());
  device.check(status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown, "cublasLtMatmul");
  return true;
}

Status CublasLt::tune(CudaDevice& device, std::span<const LinearArgs> products, ProductTimings& timings) {
  CHECK(!device.recording());
  std::map<ProductShape, std::vector<LinearArgs>> by_shape;
  for (const LinearArgs& args : products) {
    if (!copy_engine_reads(args.x) || !copy_engine_reads(args.weight)) continue;
    std::vector<LinearArgs>& alike = by_shape[shape_of(args.x, args.weight, args.out.format == Format::kF32)];
    alike.push_back(args);
    CHECK_EQ(args.x.rows, alike[0].x.rows);
    CHECK_EQ(args.weight.row_stride, alike[0].weight.row_stride);
  }
  for (const auto& [shape, alike] : by_shape) {
    const std::optional<cublasLtMatmulAlgo_t> known = parse_algorithm(timings.find(name_of(shape)).value_or(""));
    if (known && Problem(alike[0], alike[0].x.rows).can(state_->handle, *known)) {
      state_->chosen[shape] = *known;
    } else if (state_->find_fastest(device, shape, alike)) {
      timings.add(name_of(shape), text_of(state_->chosen[shape]));
    }
    RETURN_IF_ERROR(device.synchronize());
  }
  return {};
}

}  // namespace skein::cuda
