# SPDX-License-Identifier: BSD-2-Clause
SRC_ALL  += control/cmdline.c control/config.c control/dispatch.c control/json.c \
            control/json_lex.c control/json_print.c control/misc.c control/monitor.c control/qmp.c \
            control/query_block.c
SRC_HOST += control/help.c
