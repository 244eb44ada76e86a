// Ctrl-C and SIGTERM as a flag that long loops ask for, so that they stop in a resumable state.
#pragma once

namespace fewbit {

// Installs the handlers. A second signal ends the process at once.
void install_interrupt_handlers();
bool interrupted();
// Throws Interrupted if a signal has come.
void throw_if_interrupted();
// Returns when a read from `descriptor` would not wait; throws Interrupted if a signal comes first.
void wait_for_input(int descriptor);
// For tests: behaves as if a signal had come, or clears the flag.
void set_interrupted(bool value);

}  // namespace fewbit
