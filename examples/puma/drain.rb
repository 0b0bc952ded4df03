# Puma under clusterd, drained in stages. By itself Puma closes at SIGTERM each kept connection that is idle, while its
# client may be sending on it. With this around the application every answer says `Connection: close` from SIGTERM on, so
# that clients let go of their connections between two requests; LINGER seconds later Puma stops, as it always does.
#
# For any Rack application, in its config.ru, before everything else: require_relative "drain"; use Drain
# It is for Puma without workers of its own: those have their own signals.

class Drain
  LINGER = Float(ENV.fetch("LINGER", "3")) # less than [stop] drain-timeout, 5 s

  def initialize(app)
    @app = app
    @draining = false
    stop = Signal.trap("TERM") do # Puma has set its own before it loads the application
      @draining = true
      Signal.trap("TERM", stop) # a second one does not wait
      Thread.new do
        sleep LINGER
        Process.kill("TERM", Process.pid)
      end
    end
  end

  def call(env)
    @app.call(env)
  ensure
    env["HTTP_CONNECTION"] = "close" if @draining # where Puma looks when it writes the answer's header
  end
end
