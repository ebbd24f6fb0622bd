#include "server/stop_signal.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "engine/base/log.h"

namespace slim {
namespace {

// SIGUSR2 only wakes the thread at the end.
sigset_t TakenSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGUSR2);
  return signals;
}

}  // namespace

StopSignal::StopSignal() {
  const sigset_t signals = TakenSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  thread_ = std::thread([this] { TakeSignals(); });
}

StopSignal::~StopSignal() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGUSR2);
  thread_.join();
}

void StopSignal::TakeSignals() {
  const sigset_t signals = TakenSignals();
  bool stopping = false;
  for (;;) {
    int taken = 0;
    if (sigwait(&signals, &taken) != 0) continue;
    {
      absl::MutexLock lock(&mutex_);
      if (closing_) return;
    }
    if (taken == SIGUSR2) continue;
    if (stopping) {
      Log(LogLevel::kWarning, "killed", {{"signal", taken}});
      _exit(128 + taken);
    }
    stopping = true;
    Request(taken == SIGINT ? "SIGINT" : "SIGTERM");
  }
}

void StopSignal::Request(const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  if (requested_) return;
  requested_ = true;
  reason_ = reason;
}

std::string StopSignal::Wait() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&requested_));
  return reason_;
}

}  // namespace slim
