#include "fewbit/base/interrupt.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free);

// How often wait_for_input() looks at the flag.
constexpr int kLookMilliseconds = 50;

void handle(int signal) {
  if (flag.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

// Signals are handled on a thread of their own and blocked on this one and all that it starts:
// generated code of the libraries that compute keeps values below the stack pointer, where the
// frame of a handler would overwrite them.
void install_interrupt_handlers() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_handler = handle;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    sigset_t handled;
    sigemptyset(&handled);
    sigaddset(&handled, SIGINT);
    sigaddset(&handled, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &handled, nullptr);
    std::thread([handled] {
      pthread_sigmask(SIG_UNBLOCK, &handled, nullptr);
      for (;;) ::pause();
    }).detach();
    return true;
  }();
  (void)installed;
}

bool interrupted() { return flag.load(); }

void throw_if_interrupted() {
  if (interrupted()) throw Interrupted();
}

void wait_for_input(int descriptor) {
  pollfd input{descriptor, POLLIN, 0};
  do {
    throw_if_interrupted();
  } while (::poll(&input, 1, kLookMilliseconds) == 0);
}

void set_interrupted(bool value) { flag.store(value); }

}  // namespace fewbit
