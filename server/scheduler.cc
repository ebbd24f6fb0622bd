#include "server/scheduler.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "server/status_reason.h"

namespace slim {
namespace {

absl::Status OptionError(absl::string_view field, const absl::AlphaNum& value,
                         absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("scheduler option ", field, " is ", value, ", allowed: ", allowed));
}

// A request of priority 100 gets four times the share of one of priority 0 in prefill.
double WeightOf(int priority) { return std::exp2(std::clamp(priority, -100, 100) / 50.0); }

double CostOf(int64_t rows, const PrefillWork& work) {
  return static_cast<double>(rows) * (work.row_cost > 0 ? work.row_cost : 1.0);
}

}  // namespace

absl::Status ValidateSchedulerOptions(const SchedulerOptions& options) {
  if (options.max_running < 1) return OptionError("max_running", options.max_running, ">= 1");
  if (options.max_queued_requests < 1) {
    return OptionError("max_queued_requests", options.max_queued_requests, ">= 1");
  }
  if (options.max_queued_tokens < 1) {
    return OptionError("max_queued_tokens", options.max_queued_tokens, ">= 1");
  }
  if (options.max_queue_wait <= absl::ZeroDuration()) {
    return OptionError("max_queue_wait", absl::FormatDuration(options.max_queue_wait), "> 0");
  }
  if (options.kv_capacity_slabs < 1) {
    return OptionError("kv_capacity_slabs", options.kv_capacity_slabs, ">= 1");
  }
  if (options.max_layer_slabs_per_step < 1) {
    return OptionError("max_layer_slabs_per_step", options.max_layer_slabs_per_step, ">= 1");
  }
  if (options.prefill_chunk_tokens < 1) {
    return OptionError("prefill_chunk_tokens", options.prefill_chunk_tokens, ">= 1");
  }
  if (!(options.prefill_step_cost > 0)) {
    return OptionError("prefill_step_cost", options.prefill_step_cost, "> 0");
  }
  if (options.min_chunk_tokens < 1) {
    return OptionError("min_chunk_tokens", options.min_chunk_tokens, ">= 1");
  }
  if (options.chunk_multiple_tokens < 1) {
    return OptionError("chunk_multiple_tokens", options.chunk_multiple_tokens, ">= 1");
  }
  if (!(options.lone_step_factor >= 1 && options.lone_step_factor <= 1000)) {
    return OptionError("lone_step_factor", options.lone_step_factor, "1 to 1000");
  }
  if (options.lone_step_time < absl::ZeroDuration() || options.lone_step_time > absl::Hours(1)) {
    return OptionError("lone_step_time", absl::FormatDuration(options.lone_step_time), "0 to 1 h");
  }
  if (options.company_memory < absl::ZeroDuration()) {
    return OptionError("company_memory", absl::FormatDuration(options.company_memory), ">= 0");
  }
  if (options.max_bypasses < 0) return OptionError("max_bypasses", options.max_bypasses, ">= 0");
  return absl::OkStatus();
}

Scheduler::Scheduler(const SchedulerOptions& options) : options_(options) {
  SLIM_CHECK(ValidateSchedulerOptions(options).ok());
}

absl::StatusOr<int64_t> Scheduler::Enqueue(const Entry& entry, absl::Time now) {
  if (entry.kv.slabs > options_.kv_capacity_slabs) {
    return ErrorWithReason(absl::StatusCode::kInvalidArgument, reason::kExceedsCapacity,
                           absl::StrCat("prompt and max_tokens need ", entry.kv.slabs,
                                        " slabs of KV cache in the worst case, the cache has ",
                                        options_.kv_capacity_slabs));
  }
  if (entry.kv.layer_slabs > options_.max_layer_slabs_per_step) {
    return ErrorWithReason(absl::StatusCode::kInvalidArgument, reason::kExceedsCapacity,
                           absl::StrCat("prompt and max_tokens need ", entry.kv.layer_slabs,
                                        " slabs of a layer in the worst case, the device arena "
                                        "allows ",
                                        options_.max_layer_slabs_per_step, " at a time"));
  }
  if (entry.deadline <= now) {
    return ErrorWithReason(absl::StatusCode::kDeadlineExceeded, reason::kDeadline,
                           "the deadline had passed when the request arrived");
  }
  const auto [it, inserted] = items_.try_emplace(entry.key);
  SLIM_CHECK(inserted);
  Item& item = it->second;
  item.entry = entry;
  item.order = next_order_++;
  item.weight = WeightOf(entry.priority);
  waiting_.emplace(QueueKeyOf(item), entry.key);
  waiting_prompt_tokens_ += entry.prompt_tokens;
  AdmitWhatFits();  // the newcomer only: everything else that fits was admitted before
  if (item.state != State::kWaiting) return 0;

  // The first in an empty queue is always taken, or a prompt above the bound could never be served.
  const bool too_many = num_waiting() > options_.max_queued_requests;
  const bool too_long = num_waiting() > 1 && waiting_prompt_tokens_ > options_.max_queued_tokens;
  if (too_many || too_long) {
    Remove(entry.key);
    const std::string what =
        too_many ? absl::StrCat(num_waiting(),
                                " requests are waiting, allowed: ", options_.max_queued_requests)
                 : absl::StrCat(waiting_prompt_tokens_, " prompt tokens are waiting, ",
                                entry.prompt_tokens, " more would exceed the allowed ",
                                options_.max_queued_tokens);
    return ErrorWithReason(absl::StatusCode::kResourceExhausted, reason::kOverload,
                           absl::StrCat("the queue is full: ", what));
  }
  return static_cast<int64_t>(std::distance(waiting_.begin(), waiting_.find(QueueKeyOf(item))));
}

void Scheduler::LeaveQueue(const Item& item) {
  waiting_.erase(QueueKeyOf(item));
  waiting_prompt_tokens_ -= item.entry.prompt_tokens;
}

void Scheduler::AdmitWhatFits() {
  if (admission_paused_) return;
  std::vector<Item*> passed;  // waiting requests that do not fit, before the one looked at
  for (auto it = waiting_.begin(); it != waiting_.end() && num_running_ < options_.max_running;) {
    Item& item = items_.at(it->second);
    ++it;
    if (reserved_slabs_ + item.entry.kv.slabs > options_.kv_capacity_slabs) {
      // Was passed often enough: what becomes free from now on is kept for it.
      if (item.bypassed >= options_.max_bypasses) return;
      passed.push_back(&item);
      continue;
    }
    LeaveQueue(item);
    item.state = State::kAdmitted;
    reserved_slabs_ += item.entry.kv.slabs;
    ++num_running_;
    admitted_.push_back(item.entry.key);
    bool reserve = false;
    for (Item* before : passed) reserve |= ++before->bypassed >= options_.max_bypasses;
    if (reserve) return;
  }
}

std::vector<RequestKey> Scheduler::TakeAdmitted() { return std::exchange(admitted_, {}); }

bool Scheduler::Defer(RequestKey key) {
  Item& item = items_.at(key);
  SLIM_CHECK(item.state == State::kAdmitted);
  if (num_running_ == 1) return false;
  admitted_.erase(std::remove(admitted_.begin(), admitted_.end(), key), admitted_.end());
  item.state = State::kWaiting;
  --num_running_;
  reserved_slabs_ -= item.entry.kv.slabs;
  waiting_.emplace(QueueKeyOf(item), key);
  waiting_prompt_tokens_ += item.entry.prompt_tokens;
  admission_paused_ = true;
  return true;
}

void Scheduler::StartPrefill(RequestKey key, const PrefillWork& work) {
  Item& item = items_.at(key);
  SLIM_CHECK(item.state == State::kAdmitted);
  if (num_prefill_ == 0) arrival_tag_ = virtual_time_;
  item.state = State::kPrefill;
  item.tag = arrival_tag_;
  ++num_prefill_;
  UpdatePrefill(key, work);
}

void Scheduler::UpdatePrefill(RequestKey key, const PrefillWork& work) {
  Item& item = items_.at(key);
  SLIM_CHECK(item.state == State::kPrefill);
  item.work = work;
  if (work.rows > 0) return;
  item.state = State::kDecode;
  --num_prefill_;
  decoding_.emplace(item.order, key);
  ClampVirtualTime();
}

void Scheduler::Remove(RequestKey key) {
  const auto it = items_.find(key);
  if (it == items_.end()) return;
  const Item item = std::move(it->second);
  items_.erase(it);
  if (item.state == State::kWaiting) {
    LeaveQueue(item);
  } else {
    --num_running_;
    reserved_slabs_ -= item.entry.kv.slabs;
    admission_paused_ = false;
    if (item.state == State::kAdmitted) {
      admitted_.erase(std::remove(admitted_.begin(), admitted_.end(), key), admitted_.end());
    } else if (item.state == State::kDecode) {
      decoding_.erase(item.order);
    } else {
      --num_prefill_;
      ClampVirtualTime();
    }
  }
  AdmitWhatFits();
}

absl::Time Scheduler::ExpiryOf(const Item& item) const {
  if (item.state != State::kWaiting) return item.entry.deadline;
  return std::min(item.entry.deadline, item.entry.arrival + options_.max_queue_wait);
}

std::vector<Scheduler::Expired> Scheduler::FindExpired(absl::Time now) const {
  std::vector<std::pair<uint64_t, Expired>> found;
  for (const auto& [key, item] : items_) {
    if (ExpiryOf(item) > now) continue;
    const Expiry expiry = item.entry.deadline <= now ? Expiry::kDeadline : Expiry::kQueueWait;
    found.push_back({item.order, {key, expiry}});
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Expired> expired;
  expired.reserve(found.size());
  for (const auto& [order, entry] : found) expired.push_back(entry);
  return expired;
}

absl::Time Scheduler::NextExpiry() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [key, item] : items_) next = std::min(next, ExpiryOf(item));
  return next;
}

std::vector<RequestKey> Scheduler::Waiting() const {
  std::vector<RequestKey> keys;
  keys.reserve(waiting_.size());
  for (const auto& [order, key] : waiting_) keys.push_back(key);
  return keys;
}

Scheduler::Plan Scheduler::NextStep(absl::FunctionRef<bool(RequestKey)> can_decode,
                                    absl::Time now) {
  Plan plan;
  last_cost_ = 0;
  if (items_.size() > 1) last_meeting_ = now;
  const bool prefill_turn = num_prefill_ > 0 && !prefill_was_last_;
  if (!prefill_turn) {
    plan.decode = NextDecode(can_decode);
    prefill_was_last_ = false;
    if (!plan.decode.empty()) return plan;
  }
  if (num_prefill_ > 0) {
    plan.prefill = NextPrefill(StepFactor(now));
    prefill_was_last_ = true;
  }
  return plan;
}

// All streams where the device arena can hold their caches together, else as many as it can hold,
// going around by order of arrival.
std::vector<RequestKey> Scheduler::NextDecode(absl::FunctionRef<bool(RequestKey)> can_decode) {
  std::vector<RequestKey> chosen;
  auto it = decoding_.lower_bound(next_decode_);
  next_decode_ = 0;
  int64_t room = options_.max_layer_slabs_per_step;
  for (size_t seen = 0; seen < decoding_.size(); ++seen, ++it) {
    if (it == decoding_.end()) it = decoding_.begin();
    const auto& [order, key] = *it;
    if (!can_decode(key)) continue;
    const int64_t slabs = items_.at(key).entry.kv.layer_slabs;
    if (slabs > room) {
      next_decode_ = order;
      break;
    }
    room -= slabs;
    chosen.push_back(key);
  }
  return chosen;
}

void Scheduler::StepTook(absl::Duration time) {
  // A few rows take longer than their cost says; whole chunks may cost little (few layers), or few
  // rows much (late in a long prompt).
  const bool few = last_cost_ < options_.prefill_step_cost / 2 &&
                   last_rows_ < (options_.prefill_chunk_tokens + 1) / 2;
  if (last_cost_ <= 0 || few || time <= absl::ZeroDuration()) return;
  cost_per_second_ = last_cost_ / absl::ToDoubleSeconds(time);
}

double Scheduler::StepFactor(absl::Time now) const {
  if (items_.size() > 1 || now - last_meeting_ < options_.company_memory) return 1;
  const double in_time = cost_per_second_ * absl::ToDoubleSeconds(options_.lone_step_time);
  return std::clamp(in_time / options_.prefill_step_cost, 1.0, options_.lone_step_factor);
}

int64_t Scheduler::RowsFor(const PrefillWork& work, double step_factor) const {
  const int64_t multiple = options_.chunk_multiple_tokens;
  int64_t rows = options_.prefill_chunk_tokens;
  if (step_factor > 1) {
    const auto longer = static_cast<int64_t>(step_factor * static_cast<double>(rows));
    rows = std::max(rows, longer / multiple * multiple);
  }
  if (work.row_cost > 0) {
    const double affordable = step_factor * options_.prefill_step_cost / work.row_cost;
    if (affordable < static_cast<double>(rows)) {
      const int64_t cut = static_cast<int64_t>(affordable) / multiple * multiple;
      rows = std::min(rows, std::max(cut, options_.min_chunk_tokens));
    }
  }
  return std::min(rows, work.rows);
}

std::vector<Scheduler::Item*> Scheduler::PrefillByTag() {
  std::vector<Item*> items;
  items.reserve(static_cast<size_t>(num_prefill_));
  for (auto& [key, item] : items_) {
    if (item.state == State::kPrefill) items.push_back(&item);
  }
  std::sort(items.begin(), items.end(), [](const Item* a, const Item* b) {
    return std::make_pair(a->tag, a->order) < std::make_pair(b->tag, b->order);
  });
  return items;
}

std::vector<Scheduler::PrefillUnit> Scheduler::NextPrefill(double step_factor) {
  const std::vector<Item*> items = PrefillByTag();
  std::vector<PrefillUnit> units;
  int64_t rows_left = options_.prefill_chunk_tokens;
  double cost_left = options_.prefill_step_cost;
  int64_t room = options_.max_layer_slabs_per_step;
  for (const Item* item : items) {
    const int64_t rows = RowsFor(item->work, step_factor);
    // Only what finishes its run rides along with the first, and of a prompt begun before only what
    // is no larger: a piece of a long prompt would delay the short ones of this step for nothing.
    const bool fits = rows == item->work.rows && rows <= rows_left &&
                      CostOf(rows, item->work) <= cost_left && item->entry.kv.layer_slabs <= room &&
                      (!item->begun || (!units.empty() && rows <= units.front().rows));
    if (!units.empty() && !fits) continue;
    units.push_back({item->entry.key, rows});
    rows_left -= rows;
    cost_left -= CostOf(rows, item->work);
    room -= item->entry.kv.layer_slabs;
  }
  ChargePrefill(units);
  return units;
}

// The virtual time grows by what each unit of weight got in this step. Requests that come while the
// step runs start where it started, so that they go before whoever was just served; and since the
// time moves on with every step, an endless row of newcomers cannot keep an old request waiting.
void Scheduler::ChargePrefill(const std::vector<PrefillUnit>& units) {
  double weights = 0;
  for (const auto& [key, item] : items_) {
    if (item.state == State::kPrefill) weights += item.weight;
  }
  arrival_tag_ = virtual_time_;
  double total_cost = 0;
  int64_t total_rows = 0;
  for (const PrefillUnit& unit : units) {
    Item& item = items_.at(unit.key);
    const double cost = CostOf(unit.rows, item.work);
    item.tag += cost / item.weight;
    item.begun = true;
    total_cost += cost;
    total_rows += unit.rows;
  }
  last_cost_ = total_cost;
  last_rows_ = total_rows;
  virtual_time_ += total_cost / weights;
  ClampVirtualTime();
}

// Who has just become active cannot be owed service from before; who alone is active owes nobody.
void Scheduler::ClampVirtualTime() {
  if (num_prefill_ == 0) return;
  double least = 0;
  double most = 0;
  bool first = true;
  for (const auto& [key, item] : items_) {
    if (item.state != State::kPrefill) continue;
    least = first ? item.tag : std::min(least, item.tag);
    most = first ? item.tag : std::max(most, item.tag);
    first = false;
  }
  virtual_time_ = std::clamp(virtual_time_, least, most);
}

}  // namespace slim
