#include "tools/client/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

namespace slim {
namespace {

// SIGUSR1 is ours: it tells the thread to look whether to end.
sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGUSR1);
  return signals;
}

}  // namespace

Interrupts::Interrupts() {
  // A reader that left (`| head`) is an error of the write, not a reason to die silently.
  signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { TakeSignals(); });
}

Interrupts::~Interrupts() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

void Interrupts::TakeSignals() {
  const sigset_t signals = WatchedSignals();
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0) continue;
    if (signal != SIGUSR1) {
      HandleSignal(signal);
      continue;
    }
    absl::MutexLock lock(&mutex_);
    if (closing_) return;
  }
}

void Interrupts::HandleSignal(int signal) {
  // The action runs under the lock, so that it cannot run once its Scope is gone. It must not wait.
  absl::MutexLock lock(&mutex_);
  if (action_ == nullptr || signal_ != 0) _exit(128 + signal);
  signal_ = signal;
  action_();
}

Interrupts::Scope::Scope(Interrupts* interrupts, std::function<void()> action)
    : interrupts_(interrupts) {
  absl::MutexLock lock(&interrupts_->mutex_);
  interrupts_->action_ = std::move(action);
  interrupts_->signal_ = 0;
}

Interrupts::Scope::~Scope() {
  absl::MutexLock lock(&interrupts_->mutex_);
  interrupts_->action_ = nullptr;
  interrupts_->signal_ = 0;
}

int Interrupts::Scope::signal() const {
  absl::MutexLock lock(&interrupts_->mutex_);
  return interrupts_->signal_;
}

}  // namespace slim
