// How many threads to use.
#pragma once

namespace convpool {

// Never below 1; 1 in a forked child, and inside of a parallel loop.
int num_threads();
void set_num_threads(int n);

// Ends the threads that wait for the calling thread's next parallel loop.
void release_threads();

}  // namespace convpool
