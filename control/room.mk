SRC_ALL += control/json.c control/json_lex.c control/json_print.c
SRC_ALL += control/cmdline.c
SRC_HOST += control/help.c
