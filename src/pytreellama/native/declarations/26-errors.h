/* treellama-errors.h, treellama-log.h, treellama-process.h */

#define TREELLAMA_EXCEPTION ...
#define TREELLAMA_NO_CANDIDATE ...

const char * treellama_last_error(void);

void    treellama_log_collect(void);
int32_t treellama_log_pending(void);
int32_t treellama_log_next(int32_t * level, char * buf, int32_t size);

void treellama_process_start(void);
