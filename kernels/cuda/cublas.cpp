#include "kernels/cuda/cublas.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <compare>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "base/check.h"

namespace skein::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for compute capability 9.0
constexpr int kProposals = 8;
constexpr int kRounds = 3;
constexpr size_t kCalls = 4;  // of a round
constexpr size_t kCallsOfMany = 2;
constexpr int64_t kManyTokens = 1024;  // from here on a call takes a millisecond

// Tokens that share an algorithm: powers of two and halfway between them.
int64_t bucket(int64_t tokens) {
  const int64_t power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens)));
  return tokens <= power / 4 * 3 ? power / 4 * 3 : power;
}

Status failure(cublasStatus_t status, const std::string& what) {
  return Status(Code::kInternal, what + ": " + cublasLtGetStatusString(status), Scope::kReplica);
}

bool aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.row_stride % 8 == 0;
}

template <typename T>
bool parse(const std::string& word, T& value, int base) {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  return error == std::errc() && end == word.data() + word.size();
}

struct Shape {
  int64_t outputs = 0;
  int64_t inputs = 0;
  int64_t tokens = 0;  // the most of the bucket
  bool out_f32 = false;
  auto operator<=>(const Shape&) const = default;
};

Shape shape_of(const LinearArgs& args) {
  return {.outputs = args.weight.rows,
          .inputs = args.weight.columns,
          .tokens = bucket(args.x.rows),
          .out_f32 = args.out.format == Format::kF32};
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
  double time_us(CudaDevice& device, std::span<const LinearArgs> products, const Problem& problem,
                 const cublasLtMatmulAlgo_t& algorithm) const;
  bool find_fastest(CudaDevice& device, std::span<const LinearArgs> products);
  std::string line_of(const Shape& shape, const cublasLtMatmulAlgo_t& algorithm) const;
  std::optional<std::pair<Shape, cublasLtMatmulAlgo_t>> parse_line(const std::string& line) const;

  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  void* workspace = nullptr;
  std::string machine;  // what a line of the cache file begins with
  std::map<Shape, cublasLtMatmulAlgo_t> chosen;
};

CublasLt::State::~State() {
  cudaFree(workspace);
  if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
  if (handle != nullptr) cublasLtDestroy(handle);
}

// Microseconds of a product among others of its shape, one after another as in a step: the median of a few rounds;
// infinite if it does not run.
double CublasLt::State::time_us(CudaDevice& device, std::span<const LinearArgs> products, const Problem& problem,
                                const cublasLtMatmulAlgo_t& algorithm) const {
  const size_t calls = products[0].x.rows < kManyTokens ? kCalls : kCallsOfMany;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  device.check(cudaEventCreate(&begin), "cudaEventCreate");
  device.check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  bool runs = true;
  for (int round = 0; round <= kRounds && runs; ++round) {
    // Meanwhile the host queues the calls.
    device.check(cudaMemsetAsync(device.scratch(), 0, CudaDevice::kScratchBytes, device.stream()), "cudaMemsetAsync");
    device.check(cudaEventRecord(begin, device.stream()), "cudaEventRecord");
    for (size_t i = 0; i < calls && runs; ++i) {
      const LinearArgs& product = products[i % products.size()];
      runs = problem.run(handle, product, algorithm, workspace, device.stream()) == CUBLAS_STATUS_SUCCESS;
    }
    device.check(cudaEventRecord(end, device.stream()), "cudaEventRecord");
    device.check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    device.check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (round > 0) times.push_back(ms * 1e3f / static_cast<float>(calls));  // the first one loads code
  }
  device.check(cudaEventDestroy(begin), "cudaEventDestroy");
  device.check(cudaEventDestroy(end), "cudaEventDestroy");
  if (!runs) return std::numeric_limits<double>::infinity();
  std::ranges::sort(times);
  return times[kRounds / 2];
}

bool CublasLt::State::find_fastest(CudaDevice& device, std::span<const LinearArgs> products) {
  const Problem problem(products[0], products[0].x.rows);
  double best = std::numeric_limits<double>::infinity();
  for (const cublasLtMatmulAlgo_t& proposal : problem.proposals(handle, preference, kProposals)) {
    const double us = time_us(device, products, problem, proposal);
    if (us >= best) continue;
    best = us;
    chosen[shape_of(products[0])] = proposal;
  }
  return best < std::numeric_limits<double>::infinity();
}

// GPU, driver, library, outputs, inputs, tokens, format, eight words in hexadecimal; tabs between them.
std::string CublasLt::State::line_of(const Shape& shape, const cublasLtMatmulAlgo_t& algorithm) const {
  std::ostringstream line;
  line << machine << shape.outputs << '\t' << shape.inputs << '\t' << shape.tokens << '\t'
       << (shape.out_f32 ? "f32" : "bf16") << std::hex;
  for (const uint64_t word : algorithm.data) line << '\t' << word;
  return line.str();
}

std::optional<std::pair<Shape, cublasLtMatmulAlgo_t>> CublasLt::State::parse_line(const std::string& line) const {
  if (!line.starts_with(machine)) return std::nullopt;
  std::istringstream rest(line.substr(machine.size()));
  std::vector<std::string> words;
  for (std::string word; std::getline(rest, word, '\t');) words.push_back(word);
  cublasLtMatmulAlgo_t algorithm{};
  if (words.size() != 4 + std::size(algorithm.data)) return std::nullopt;
  Shape shape{};
  if (!parse(words[0], shape.outputs, 10) || !parse(words[1], shape.inputs, 10) || !parse(words[2], shape.tokens, 10)) {
    return std::nullopt;
  }
  if (words[3] != "f32" && words[3] != "bf16") return std::nullopt;
  shape.out_f32 = words[3] == "f32";
  for (size_t i = 0; i < std::size(algorithm.data); ++i) {
    if (!parse(words[4 + i], algorithm.data[i], 16)) return std::nullopt;
  }
  return std::pair(shape, algorithm);
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
  int index = 0;
  int driver = 0;
  cudaDeviceProp properties{};
  cudaError_t error = cudaGetDevice(&index);
  if (error == cudaSuccess) error = cudaDriverGetVersion(&driver);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, index);
  if (error == cudaSuccess) error = cudaMalloc(&state->workspace, kWorkspaceBytes);
  if (error != cudaSuccess) {
    return Status(Code::kInternal, std::string("cuBLASLt's working memory: ") + cudaGetErrorString(error),
                  Scope::kReplica);
  }
  state->machine = std::string(properties.name) + "\t" + std::to_string(driver) + "\t" +
                      std::to_string(cublasLtGetVersion()) + "\t";
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(state)));
}

bool CublasLt::multiply(CudaDevice& device, const LinearArgs& args) {
  if (!aligned(args.x) || !aligned(args.weight)) return false;
  const Shape shape = shape_of(args);
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

Status CublasLt::tune(CudaDevice& device, std::span<const LinearArgs> products, const std::string& cache_path) {
  CHECK(!device.recording());
  std::map<Shape, cublasLtMatmulAlgo_t> known;
  std::ifstream in(cache_path);
  std::string last;
  for (std::string line; std::getline(in, line); last = line) {
    if (const auto entry = state_->parse_line(line)) known[entry->first] = entry->second;
  }
  in.close();
  // A last line that was cut off must not spoil the next one; an empty line is nothing.
  std::string found = last.empty() ? "" : "\n";
  const size_t nothing = found.size();
  std::map<Shape, std::vector<LinearArgs>> by_shape;
  for (const LinearArgs& args : products) {
    if (!aligned(args.x) || !aligned(args.weight)) continue;
    std::vector<LinearArgs>& alike = by_shape[shape_of(args)];
    alike.push_back(args);
    CHECK_EQ(args.x.rows, alike[0].x.rows);
    CHECK_EQ(args.weight.row_stride, alike[0].weight.row_stride);
  }
  for (const auto& [shape, alike] : by_shape) {
    const auto entry = known.find(shape);
    if (entry != known.end() && Problem(alike[0], alike[0].x.rows).can(state_->handle, entry->second)) {
      state_->chosen[shape] = entry->second;
    } else if (state_->find_fastest(device, alike)) {
      found += state_->line_of(shape, state_->chosen[shape]) + "\n";
    }
    RETURN_IF_ERROR(device.synchronize());
  }
  if (found.size() == nothing || cache_path.empty()) return {};
  std::ofstream out(cache_path, std::ios::app);
  out << found << std::flush;
  if (!out) return invalid_argument("cannot write the timings of products to " + cache_path);
  return {};
}

}  // namespace skein::cuda
