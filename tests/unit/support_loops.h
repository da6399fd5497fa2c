/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_UNIT_SUPPORT_LOOPS_H
#define TESTS_UNIT_SUPPORT_LOOPS_H
/*
 * A second loop on a second thread, for group set-up and tear-down. Loop 0 is the test's own thread
 * and runs when the test calls loop_run.
 */
#define TWO_LOOPS_STACKS 32u /* ordinary ones of loop 0 */
int two_loops_start(void **state);
int two_loops_stop(void **state);
#endif
