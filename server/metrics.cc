#include "server/metrics.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/metric_family.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "server/process_stats.h"

namespace slim {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::map<std::string, std::string>;
using Buckets = prometheus::Histogram::BucketBoundaries;
using CounterFamily = prometheus::Family<prometheus::Counter>;
using HistogramFamily = prometheus::Family<prometheus::Histogram>;

const Buckets& LatencyBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,   0.25,  0.5,   0.75,   1.0,
                   2.5,   5.0,   7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0};
  return buckets;
}
const Buckets& GapBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1,
                   0.15,  0.2,    0.3,   0.4,  0.5,  0.75, 1.0,  2.5,  5.0,   10.0};
  return buckets;
}
const Buckets& ShortBuckets() {
  static const Buckets& buckets = *new Buckets{1e-5,  5e-5, 1e-4, 5e-4, 0.001, 0.005, 0.01,
                                               0.025, 0.05, 0.1,  0.25, 0.5,   1.0,   2.5};
  return buckets;
}
const Buckets& TokenBuckets() {
  static const Buckets& buckets =
      *new Buckets{1,    2,    5,    10,    20,    50,    100,    200,    500,    1000,
                   2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 512000, 1024000};
  return buckets;
}
const Buckets& RatioBuckets() {
  static const Buckets& buckets =
      *new Buckets{0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0};
  return buckets;
}

// Families that are computed at the scrape, built up line by line.
class ScrapePage {
 public:
  explicit ScrapePage(std::string model_name) : model_name_(std::move(model_name)) {}

  void Gauge(const std::string& name, const std::string& help, Labels labels, double value) {
    Metric(name, help, MetricType::Gauge, std::move(labels)).gauge.value = value;
  }
  void Counter(const std::string& name, const std::string& help, Labels labels, double value) {
    Metric(name, help, MetricType::Counter, std::move(labels)).counter.value = value;
  }
  // Without the model's label, under the plain name: what every exporter calls process_*.
  void Process(const std::string& name, const std::string& help, MetricType type, double value) {
    ClientMetric& metric = Family(name, help, type).metric.emplace_back();
    metric.gauge.value = value;
    metric.counter.value = value;
  }
  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  MetricFamily& Family(const std::string& name, const std::string& help, MetricType type) {
    for (MetricFamily& family : families_) {
      if (family.name == name) return family;
    }
    MetricFamily& family = families_.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
    return family;
  }
  ClientMetric& Metric(const std::string& name, const std::string& help, MetricType type,
                       Labels labels) {
    ClientMetric& metric = Family("sliminfer_" + name, help, type).metric.emplace_back();
    labels["model_name"] = model_name_;
    for (auto& [key, value] : labels) metric.label.push_back({key, value});
    return metric;
  }

  const std::string model_name_;
  std::vector<MetricFamily> families_;
};

void AddRequestGauges(const WorkerStats& stats, ScrapePage* page) {
  page->Gauge("num_requests_running", "Requests in prefill or decode.", {},
              static_cast<double>(stats.running_requests));
  page->Gauge("num_requests_waiting", "Requests in the queue.", {},
              static_cast<double>(stats.waiting_requests));
  page->Gauge("num_waiting_prompt_tokens", "Prompt tokens of the requests in the queue.", {},
              static_cast<double>(stats.waiting_prompt_tokens));
  page->Gauge("accepting", "1 while new requests are accepted.", {}, stats.accepting ? 1 : 0);
  page->Gauge("healthy", "1 while the worker makes progress and the backend works.", {},
              stats.healthy ? 1 : 0);
}

void AddTier(const std::string& tier, const KvTierStats& stats, ScrapePage* page) {
  const double total = static_cast<double>(stats.total_slabs);
  page->Gauge("kv_cache_usage_ratio", "Share of the KV cache that live requests occupy, 0 to 1.",
              {{"tier", tier}}, total > 0 ? static_cast<double>(stats.used_slabs) / total : 0);
  const std::pair<const char*, int64_t> states[] = {{"used", stats.used_slabs},
                                                    {"free", stats.free_slabs},
                                                    {"cached", stats.cached_slabs},
                                                    {"in_flight", stats.held_by_transfer_slabs}};
  for (const auto& [state, count] : states) {
    page->Gauge("kv_cache_blocks", "Slabs (one layer of one block) of the KV cache by state.",
                {{"tier", tier}, {"state", state}}, static_cast<double>(count));
  }
  page->Gauge("kv_cache_reserved_blocks", "Slabs promised to live requests, used or not.",
              {{"tier", tier}}, static_cast<double>(stats.reserved_slabs));
}

void AddKvCounters(const EngineStats& engine, ScrapePage* page) {
  const KvStats& kv = engine.kv;
  const std::string bytes_help = "Bytes of KV copied between host and device.";
  page->Counter("kv_transfer_bytes_total", bytes_help, {{"direction", "h2d"}},
                static_cast<double>(kv.bytes_to_device));
  page->Counter("kv_transfer_bytes_total", bytes_help, {{"direction", "d2h"}},
                static_cast<double>(kv.bytes_to_host));
  const std::string seconds_help = "Time the KV copier was busy.";
  page->Counter("kv_transfer_seconds_total", seconds_help, {{"direction", "h2d"}},
                kv.seconds_to_device);
  page->Counter("kv_transfer_seconds_total", seconds_help, {{"direction", "d2h"}},
                kv.seconds_to_host);
  const std::pair<const char*, int64_t> outcomes[] = {{"on_time", kv.prefetch_on_time},
                                                      {"late", kv.prefetch_late},
                                                      {"dropped", kv.prefetch_dropped},
                                                      {"wasted", kv.prefetch_wasted}};
  for (const auto& [outcome, count] : outcomes) {
    page->Counter("kv_prefetch_blocks_total",
                  "Slabs prefetched to the device, by what became of them.", {{"outcome", outcome}},
                  static_cast<double>(count));
  }
  page->Counter("kv_late_completions_total", "Completions of transfers that were already closed.",
                {}, static_cast<double>(kv.late_completions));
  page->Counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", {},
                static_cast<double>(engine.prefix_cache_query_tokens));
  page->Counter("prefix_cache_hits_total", "Prompt tokens taken from the prefix cache.", {},
                static_cast<double>(engine.prefix_cache_hit_tokens));
}

void AddProcess(ScrapePage* page) {
  const ProcessStats stats = ReadProcessStats();
  page->Process("process_resident_memory_bytes", "Resident memory.", MetricType::Gauge,
                stats.resident_bytes);
  page->Process("process_cpu_seconds_total", "User and system CPU time.", MetricType::Counter,
                stats.cpu_seconds);
  page->Process("process_open_fds", "Open file descriptors.", MetricType::Gauge, stats.open_fds);
  page->Process("process_max_fds", "Limit of open file descriptors.", MetricType::Gauge,
                stats.max_fds);
  page->Process("process_start_time_seconds", "Start time since the Unix epoch.", MetricType::Gauge,
                stats.start_time_seconds);
}

class PrometheusMetrics final : public Metrics {
 public:
  explicit PrometheusMetrics(const Facts& facts)
      : facts_(facts),
        labels_{{"model_name", facts.model_name}},
        requests_(Counters("requests_total", "RPCs ended, by method and status code.")),
        success_(Counters("request_success_total", "Requests finished, by reason.")),
        rejections_(Counters("admission_rejections_total", "Requests refused, by reason.")),
        cancellations_(
            Counters("request_cancellations_total", "Requests cancelled, by phase and cause.")),
        prefill_tokens_(Counters("prefill_tokens_total",
                                 "Token-layers of finished prompts, computed or pruned.")),
        kv_bytes_(Counters("prompt_kv_bytes_total",
                           "Bytes of KV of finished prompts: stored, and without pruning.")),
        prompt_tokens_(
            Counters("prompt_tokens_total", "Prompt tokens of finished requests.").Add({})),
        generation_tokens_(Counters("generation_tokens_total", "Tokens generated.").Add({})),
        reselect_swaps_(
            Counters("reselect_swaps_total", "Changes of the active blocks in decode.").Add({})),
        first_token_(Histogram("time_to_first_token_seconds", "Submission to the first token.",
                               LatencyBuckets())),
        inter_token_(
            Histogram("inter_token_latency_seconds", "Time between tokens.", GapBuckets())),
        end_to_end_(Histogram("e2e_request_latency_seconds", "Submission to the last token.",
                              LatencyBuckets())),
        queue_time_(Histogram("request_queue_time_seconds", "Submission to the first unit of work.",
                              LatencyBuckets())),
        prefill_time_(Histogram("request_prefill_time_seconds",
                                "First unit of work to the first token.", LatencyBuckets())),
        decode_time_(
            Histogram("request_decode_time_seconds", "First token to the last.", LatencyBuckets())),
        request_prompt_tokens_(
            Histogram("request_prompt_tokens", "Prompt tokens of a request.", TokenBuckets())),
        request_generation_tokens_(Histogram("request_generation_tokens",
                                             "Tokens generated for a request.", TokenBuckets())),
        step_seconds_(Histogram("step_seconds", "Duration of one engine step.", GapBuckets())),
        iteration_tokens_(Histograms("iteration_tokens", "Token rows computed in one step.")),
        kept_ratio_(Histograms("prefill_kept_ratio",
                               "Share of the prompt that a layer's decision retained.")),
        prune_seconds_(Histograms("prune_step_seconds", "Time of a layer's pruning decision.")),
        kv_stall_(Histograms("kv_stall_seconds", "Time a step waited for cached blocks.")),
        cancel_latency_(Histograms("cancel_latency_seconds",
                                   "From the cancel to the last page freed, by phase.")) {
    // There from the start: a rate over a series that only appears with its first stall misses it.
    kv_stall_.Add({{"cause", "transfer"}}, ShortBuckets());
  }

  void SetStatsSource(std::function<WorkerStats()> source) override {
    absl::MutexLock lock(&source_mutex_);
    source_ = std::move(source);
  }

  void OnRpcDone(absl::string_view method, absl::string_view code) override {
    requests_.Add({{"grpc_method", std::string(method)}, {"grpc_code", std::string(code)}})
        .Increment();
  }

  void OnRejected(absl::string_view reason) override {
    rejections_.Add({{"reason", std::string(reason)}}).Increment();
  }

  void OnFirstToken(absl::Duration time) override {
    first_token_.Observe(absl::ToDoubleSeconds(time));
  }

  void OnInterTokenGap(absl::Duration gap) override {
    inter_token_.Observe(absl::ToDoubleSeconds(gap));
  }

  void OnFinished(const Request& request, const FinishedEvent& event) override {
    const char* why = event.reason == FinishReason::kStop ? "stop" : "length";
    success_.Add({{"finished_reason", why}}).Increment();
    const SequenceReport& report = event.report;
    prompt_tokens_.Increment(static_cast<double>(report.prompt_tokens));
    request_prompt_tokens_.Observe(static_cast<double>(report.prompt_tokens));
    request_generation_tokens_.Observe(static_cast<double>(event.completion_tokens));
    queue_time_.Observe(absl::ToDoubleSeconds(event.queue_time));
    prefill_time_.Observe(absl::ToDoubleSeconds(event.prefill_time));
    decode_time_.Observe(absl::ToDoubleSeconds(event.decode_time));
    end_to_end_.Observe(absl::ToDoubleSeconds(event.time_to_first_token + event.decode_time));
    reselect_swaps_.Increment(static_cast<double>(report.reselect_swaps));
    prefill_tokens_.Add({{"outcome", "kept"}}).Increment(Count(report.kept_token_layers));
    prefill_tokens_.Add({{"outcome", "pruned"}}).Increment(Count(report.pruned_token_layers));
    kv_bytes_.Add({{"kind", "stored"}}).Increment(Count(report.stored_kv_bytes));
    kv_bytes_.Add({{"kind", "full_equivalent"}}).Increment(Count(report.full_kv_bytes));
    for (const StageReport& stage : report.stages) ObserveStage(stage, report.prompt_tokens);
  }

  void OnCancelled(absl::string_view phase, CancelCause cause, absl::Duration latency) override {
    cancellations_.Add({{"phase", std::string(phase)}, {"cause", CauseName(cause)}}).Increment();
    cancel_latency_.Add({{"phase", std::string(phase)}}, ShortBuckets())
        .Observe(absl::ToDoubleSeconds(latency));
  }

  void OnStep(const StepResult& result, absl::Duration step_time) override {
    step_seconds_.Observe(absl::ToDoubleSeconds(step_time));
    if (result.prefill_rows > 0) {
      iteration_tokens_.Add({{"phase", "prefill"}}, TokenBuckets())
          .Observe(static_cast<double>(result.prefill_rows));
    }
    if (result.decode_rows > 0) {
      iteration_tokens_.Add({{"phase", "decode"}}, TokenBuckets())
          .Observe(static_cast<double>(result.decode_rows));
    }
    if (result.kv_stall > absl::ZeroDuration()) {
      kv_stall_.Add({{"cause", "transfer"}}, ShortBuckets())
          .Observe(absl::ToDoubleSeconds(result.kv_stall));
    }
    int64_t tokens = 0;
    for (const SequenceOutput& output : result.outputs) tokens += output.token.has_value();
    generation_tokens_.Increment(static_cast<double>(tokens));
  }

  std::string Render() override {
    std::vector<MetricFamily> families = registry_.Collect();
    for (MetricFamily& family : ScrapeGauges()) families.push_back(std::move(family));
    // A family without a series yet says nothing but its name.
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  static double Count(int64_t value) { return value > 0 ? static_cast<double>(value) : 0; }

  static std::string CauseName(CancelCause cause) {
    switch (cause) {
      case CancelCause::kClient:
        return "client";
      case CancelCause::kAbort:
        return "abort";
      case CancelCause::kDeadline:
        return "deadline";
      case CancelCause::kSlowConsumer:
        return "slow_consumer";
      case CancelCause::kShutdown:
        return "shutdown";
    }
    return "other";
  }

  // Layers come from requests, but only as many as the model has.
  void ObserveStage(const StageReport& stage, int64_t prompt_tokens) {
    if (stage.layer < 0 || stage.layer >= facts_.num_layers || prompt_tokens <= 0) return;
    const Labels labels{{"layer", absl::StrCat(stage.layer)}};
    kept_ratio_.Add(labels, RatioBuckets())
        .Observe(static_cast<double>(stage.retained_tokens) / static_cast<double>(prompt_tokens));
    prune_seconds_.Add(labels, ShortBuckets()).Observe(absl::ToDoubleSeconds(stage.decision_time));
  }

  CounterFamily& Counters(const std::string& name, const std::string& help) {
    return prometheus::BuildCounter()
        .Name("sliminfer_" + name)
        .Help(help)
        .Labels(labels_)
        .Register(registry_);
  }
  HistogramFamily& Histograms(const std::string& name, const std::string& help) {
    return prometheus::BuildHistogram()
        .Name("sliminfer_" + name)
        .Help(help)
        .Labels(labels_)
        .Register(registry_);
  }
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const Buckets& buckets) {
    return Histograms(name, help).Add({}, buckets);
  }

  std::vector<MetricFamily> ScrapeGauges() {
    ScrapePage page(facts_.model_name);
    WorkerStats stats;
    {
      // Held during the call, so that SetStatsSource(nullptr) means "not called any more".
      absl::MutexLock lock(&source_mutex_);
      if (source_) stats = source_();
    }
    AddRequestGauges(stats, &page);
    AddTier("device", stats.engine.kv.device, &page);
    AddTier("host", stats.engine.kv.host, &page);
    AddKvCounters(stats.engine, &page);
    AddFacts(&page);
    AddProcess(&page);
    return page.Take();
  }

  void AddFacts(ScrapePage* page) const {
    page->Gauge(
        "build_info", "Version of the server, always 1.",
        {{"version", facts_.version}, {"revision", facts_.revision}, {"backend", facts_.backend}},
        1);
    page->Gauge("model_info", "The loaded model, always 1.",
                {{"arch", facts_.architecture},
                 {"dtype", facts_.dtype},
                 {"max_model_len", absl::StrCat(facts_.max_model_len)}},
                1);
    page->Gauge("cache_config_info", "The KV cache's configuration, always 1.",
                {{"block_size", absl::StrCat(facts_.block_tokens)},
                 {"num_gpu_blocks", absl::StrCat(facts_.capacity_slabs)},
                 {"tier", facts_.kv_tier},
                 {"cache_dtype", facts_.kv_dtype},
                 {"prefix_cache_bytes", absl::StrCat(facts_.prefix_cache_bytes)}},
                1);
    page->Gauge("host_kv_pool_bytes", "Size of the host pool for KV, 0 in the unified tier.", {},
                static_cast<double>(facts_.host_kv_pool_bytes));
  }

  const Facts facts_;
  const Labels labels_;
  prometheus::Registry registry_;
  CounterFamily& requests_;
  CounterFamily& success_;
  CounterFamily& rejections_;
  CounterFamily& cancellations_;
  CounterFamily& prefill_tokens_;
  CounterFamily& kv_bytes_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& reselect_swaps_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& end_to_end_;
  prometheus::Histogram& queue_time_;
  prometheus::Histogram& prefill_time_;
  prometheus::Histogram& decode_time_;
  prometheus::Histogram& request_prompt_tokens_;
  prometheus::Histogram& request_generation_tokens_;
  prometheus::Histogram& step_seconds_;
  HistogramFamily& iteration_tokens_;
  HistogramFamily& kept_ratio_;
  HistogramFamily& prune_seconds_;
  HistogramFamily& kv_stall_;
  HistogramFamily& cancel_latency_;

  absl::Mutex source_mutex_;
  std::function<WorkerStats()> source_ ABSL_GUARDED_BY(source_mutex_);
};

}  // namespace

std::unique_ptr<Metrics> Metrics::Create(const Facts& facts) {
  return std::make_unique<PrometheusMetrics>(facts);
}

}  // namespace slim
